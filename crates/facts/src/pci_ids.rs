//! Names of PCI devices, from the list that distributions install.

/// Of GPUs' and network cards' vendors, for hosts without the list.
const VENDORS: [(&str, &str); 9] = [
    ("1002", "Advanced Micro Devices, Inc. [AMD/ATI]"),
    ("102b", "Matrox Electronics Systems Ltd."),
    ("10de", "NVIDIA Corporation"),
    ("1234", "QEMU"),
    ("15ad", "VMware"),
    ("1a03", "ASPEED Technology, Inc."),
    ("1af4", "Red Hat, Inc."),
    ("1b36", "Red Hat, Inc."),
    ("8086", "Intel Corporation"),
];

/// A vendor's and a device's name. Vendors stand at a line's beginning, their
/// devices below them after a tab: `8086  Intel Corporation`.
pub(crate) fn names(list: &str, vendor: &str, device: &str) -> (String, Option<String>) {
    let entry = |line: &str, id: &str| {
        line.strip_prefix(id).and_then(|rest| rest.strip_prefix("  ")).map(str::to_owned)
    };
    let mut lines = list.lines();
    let Some(name) = lines.find_map(|line| entry(line, vendor)) else {
        let known = VENDORS.iter().find(|(id, _)| *id == vendor);
        return (known.map_or_else(|| vendor.to_owned(), |(_, name)| (*name).to_owned()), None);
    };
    let devices = lines.take_while(|line| line.is_empty() || line.starts_with(['\t', '#']));
    let device =
        devices.filter_map(|line| line.strip_prefix('\t')).find_map(|line| entry(line, device));
    (name, device)
}

#[cfg(test)]
mod tests {
    use super::names;

    const LIST: &str = "# PCI\n\n10de  NVIDIA Corporation\n\t2330  GH100 [H100 SXM5 80GB]\n\
        \t\t10de 16c1  a subsystem\n# of another\n8086  Intel Corporation\n\t46a6  Alder Lake\n";

    #[test]
    fn names_are_found_below_their_vendor_alone() {
        let (vendor, device) = names(LIST, "10de", "2330");
        assert_eq!(vendor, "NVIDIA Corporation");
        assert_eq!(device.as_deref(), Some("GH100 [H100 SXM5 80GB]"));
        assert_eq!(names(LIST, "10de", "46a6").1, None);
        assert_eq!(names(LIST, "8086", "46a6").1.as_deref(), Some("Alder Lake"));
        assert_eq!(names("", "10de", "2330"), ("NVIDIA Corporation".to_owned(), None));
        assert_eq!(names("", "abcd", "2330"), ("abcd".to_owned(), None));
    }
}
