//! What is mounted, from /proc/self/mountinfo (proc(5)).

use std::io;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounted {
    /// Major and minor number of what is mounted.
    pub(super) device: (u32, u32),
    /// The directory of that which is seen here: `/` but for binds and
    /// subvolumes.
    pub(super) root: String,
    pub(super) target: String,
    pub(super) kind: String,
    pub(super) source: String,
    /// The mount or what is under it.
    pub(super) read_only: bool,
}

/// In the order in which they were mounted, as far as it matters.
pub(super) fn read() -> io::Result<Vec<Mounted>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(parse(&String::from_utf8_lossy(&text)))
}

/// What `target` is the root of; the last one mounted there is what is seen.
pub(super) fn at(target: &str) -> io::Result<Option<Mounted>> {
    Ok(read()?.into_iter().rev().find(|mounted| mounted.target == target))
}

fn parse(text: &str) -> Vec<Mounted> {
    text.lines().filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /target rw,noatime master:1 - ext4 /dev/vda rw,x=y`
fn parse_line(line: &str) -> Option<Mounted> {
    let (mount, what) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(2);
    let (device, root, target, options) =
        (mount.next()?, mount.next()?, mount.next()?, mount.next()?);
    let (major, minor) = device.split_once(':')?;
    let mut what = what.split(' ');
    let (kind, source, super_options) = (what.next()?, what.next()?, what.next()?);
    let is_read_only = |options: &str| options.split(',').any(|option| option == "ro");
    Some(Mounted {
        device: (major.parse().ok()?, minor.parse().ok()?),
        root: unescape(root),
        target: unescape(target),
        kind: kind.to_owned(),
        source: unescape(source),
        read_only: is_read_only(options) || is_read_only(super_options),
    })
}

/// The kernel writes space, tab, newline and backslash in octal (getmntent(3)).
pub(super) fn unescape(text: &str) -> String {
    let plain = text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n");
    plain.replace("\\134", "\\")
}

pub(super) fn escape(text: &str) -> String {
    let plain = text.replace('\\', "\\134").replace(' ', "\\040");
    plain.replace('\t', "\\011").replace('\n', "\\012")
}

/// On a disk of this machine, where reading and freezing mean something.
pub(super) fn is_block_backed(mounted: &Mounted) -> bool {
    // Major 0 is what has no device: proc, overlay, network file systems, and
    // btrfs, which may have several.
    mounted.device.0 != 0 || mounted.kind == "btrfs"
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDED: &str = "\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
24 22 0:21 / /proc rw,nosuid shared:12 - proc proc rw
31 22 254:15 / /boot/efi rw,relatime shared:29 - vfat /dev/vda15 ro,fmask=0077
40 22 254:1 /srv/a\\040b /mnt/c\\134d rw - ext4 /dev/vda1 rw
broken line
";

    #[test]
    fn lines_are_read() {
        let all = parse(RECORDED);
        assert_eq!(all.len(), 4);
        assert_eq!((all[0].device, all[0].target.as_str()), ((254, 1), "/"));
        assert_eq!((all[0].kind.as_str(), all[0].source.as_str()), ("ext4", "/dev/vda1"));
        assert!(!all[0].read_only && all[2].read_only);
        assert_eq!((all[3].root.as_str(), all[3].target.as_str()), ("/srv/a b", "/mnt/c\\d"));
        let disks: Vec<_> =
            all.iter().filter(|m| is_block_backed(m)).map(|m| m.target.as_str()).collect();
        assert_eq!(disks, ["/", "/boot/efi", "/mnt/c\\d"]);
    }

    #[test]
    fn odd_names_survive_both_ways() {
        let odd = "a b\\040\tc\nd";
        assert_eq!(unescape(&escape(odd)), odd);
        assert_eq!(unescape("/plain"), "/plain");
    }
}
