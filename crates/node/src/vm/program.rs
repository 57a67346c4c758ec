use inn_domain::VmSpec;
use inn_units::ExecId;

use crate::guest::ExecSpec;

/// A program in such a VM, where whoever asks for it says nothing else.
pub(crate) fn program(
    spec: &VmSpec,
    emulated: bool,
    argv: Vec<String>,
) -> Result<ExecSpec, getrandom::Error> {
    let mut id = [0; ExecId::BYTES];
    getrandom::fill(&mut id)?;
    let run = spec.run_defaults();
    Ok(ExecSpec {
        env: spec.environment(&[]),
        cwd: run.working_dir.clone(),
        make_cwd: true,
        user: run.user.clone(),
        stable_addresses: spec.has_stable_addresses(emulated),
        ..ExecSpec::new(ExecId::from_bytes(id), argv)
    })
}
