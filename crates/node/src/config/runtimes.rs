use inn_domain::RuntimeChoice;

use super::values::choice;

/// Some of the runtimes, each once.
pub(super) fn runtimes(text: &str) -> Result<Vec<RuntimeChoice>, String> {
    let known = [
        ("qemu", RuntimeChoice::Qemu),
        ("firecracker", RuntimeChoice::Firecracker),
        ("krun", RuntimeChoice::Krun),
    ];
    let mut order = Vec::new();
    for name in text.split(',').map(str::trim) {
        let runtime = choice(name, &known)?;
        if order.contains(&runtime) {
            return Err(format!("names {name} twice"));
        }
        order.push(runtime);
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_names_each_runtime_once() {
        use RuntimeChoice::{Krun, Qemu};
        assert_eq!(runtimes("krun,qemu"), Ok(vec![Krun, Qemu]));
        assert_eq!(runtimes(" qemu "), Ok(vec![Qemu]));
        for (bad, why) in [("qemu, qemu", "twice"), ("", "must be"), ("xen", "firecracker or krun")]
        {
            assert!(runtimes(bad).unwrap_err().contains(why), "{bad}");
        }
    }
}
