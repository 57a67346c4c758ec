//! The same as an `nft` script, for people and for `nft -f`.

use std::fmt::{self, Write};

use super::model::{Data, ElementKey, Family, Set, Shape, Table, Tables, Type, Value};

impl Tables {
    /// That makes exactly these tables, whatever was there of them.
    pub fn script(&self) -> String {
        let mut out = String::new();
        for family in Family::ALL {
            let name = self.instance.table();
            // Deleting what is not there would end the script.
            let _never = writeln!(out, "add table {family} {name}\ndelete table {family} {name}");
            if let Some(table) = self.tables.get(&family) {
                let _never = write_table(&mut out, family, &name, table);
            }
        }
        out
    }
}

fn write_table(out: &mut String, family: Family, name: &str, table: &Table) -> fmt::Result {
    writeln!(out, "table {family} {name} {{")?;
    for (name, set) in &table.sets {
        write_set(out, name, set)?;
    }
    for (name, chain) in &table.chains {
        writeln!(out, "\tchain {name} {{")?;
        if let Some(hook) = chain.hook {
            let kind = if hook.nat { "nat" } else { "filter" };
            let (point, priority) = (hook.point.name(), hook.priority);
            writeln!(out, "\t\ttype {kind} hook {point} priority {priority}; policy accept;")?;
        }
        for rule in &chain.rules {
            writeln!(out, "\t\t{} comment \"{}\"", rule.text(), rule.comment())?;
        }
        writeln!(out, "\t}}")?;
    }
    writeln!(out, "}}")
}

fn write_set(out: &mut String, name: &str, set: &Set) -> fmt::Result {
    let shape = &set.shape;
    let kind = if shape.data.is_some() { "map" } else { "set" };
    write!(out, "\t{kind} {name} {{\n\t\ttype {}", types(&shape.key))?;
    match &shape.data {
        None => {}
        Some(Data::Verdict) => write!(out, " : verdict")?,
        Some(Data::Values(values)) => write!(out, " : {}", types(values))?,
    }
    writeln!(out)?;
    if shape.interval {
        writeln!(out, "\t\tflags interval")?;
    }
    if shape.timeout {
        writeln!(out, "\t\tflags timeout")?;
    }
    if !set.elements.is_empty() {
        let all: Vec<String> = set.elements.iter().map(|(k, v)| element(shape, k, v)).collect();
        writeln!(out, "\t\telements = {{ {} }}", all.join(",\n\t\t\t"))?;
    }
    writeln!(out, "\t}}")
}

fn types(types: &[Type]) -> String {
    let names: Vec<&str> = types.iter().map(|one| one.name()).collect();
    names.join(" . ")
}

fn element(shape: &Shape, key: &ElementKey, value: &Value) -> String {
    let from = fields(&shape.key, &key.from);
    let to = key.to.as_ref().map(|to| fields(&shape.key, to));
    let key: Vec<String> = from
        .into_iter()
        .enumerate()
        .map(|(at, from)| match to.as_ref().and_then(|to| to.get(at)) {
            Some(to) if *to != from => format!("{from}-{to}"),
            _ => from,
        })
        .collect();
    let key = key.join(" . ");
    match (value, &shape.data) {
        (Value::Goto(chain), _) => format!("{key} : goto {chain}"),
        (Value::Bytes(bytes), Some(Data::Values(types))) => {
            format!("{key} : {}", fields(types, bytes).join(" . "))
        }
        _ => key,
    }
}

fn fields(types: &[Type], mut bytes: &[u8]) -> Vec<String> {
    let one = |one: &Type| {
        let (this, rest) = bytes.split_at_checked(one.padded()).unwrap_or((bytes, &[]));
        bytes = rest;
        one.text(this)
    };
    types.iter().map(one).collect()
}
