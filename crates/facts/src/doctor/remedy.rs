use inn_api::Finding;

/// What mends a finding: a command, what a person does, or the one and then the
/// other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remedy {
    command: Option<String>,
    instruction: Option<String>,
}

impl Remedy {
    pub(super) fn command(command: impl Into<String>) -> Self {
        Self { command: Some(command.into()), instruction: None }
    }

    /// Where no command does it.
    pub(super) fn person(instruction: impl Into<String>) -> Self {
        Self { command: None, instruction: Some(instruction.into()) }
    }

    pub(super) fn then(self, instruction: impl Into<String>) -> Self {
        Self { instruction: Some(instruction.into()), ..self }
    }

    pub(super) fn of(self, finding: Finding) -> Finding {
        Finding { command: self.command, instruction: self.instruction, ..finding }
    }
}
