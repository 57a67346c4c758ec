#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "test code: a panic is a failure"
)]

#[path = "../../tests/support/debugfs.rs"]
mod debugfs;

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use tempfile::NamedTempFile;

use super::*;
use debugfs::{Found, assert_clean, available, read_tree};

const IDENTITY: Identity = Identity { uuid: [7; 16], hash_seed: [9; 16], label: "test" };

fn built(fill: impl FnOnce(&mut Ext4Builder)) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    let mut builder = Ext4Builder::new(file.reopen().unwrap(), 8 << 30).unwrap();
    fill(&mut builder);
    builder.finish(&IDENTITY).unwrap();
    file
}

fn attr(mode: u16) -> Attr {
    Attr { mode, ..Attr::default() }
}

fn put(builder: &mut Ext4Builder, name: &str, attr: Attr, content: Content) -> NodeId {
    builder.tree.put(Tree::ROOT, name.as_bytes(), attr, content, 1).unwrap()
}

fn file(builder: &mut Ext4Builder, bytes: &[u8]) -> Content {
    Content::File(builder.store(bytes.len() as u64, &mut { bytes }).unwrap())
}

fn read(image: &NamedTempFile) -> BTreeMap<String, Found> {
    assert_clean(image.path());
    read_tree(image.path())
}

#[test]
fn an_empty_image_is_a_root_directory() {
    if !available("an_empty_image_is_a_root_directory") {
        return;
    }
    let tree = read(&built(|_| {}));
    assert_eq!(tree.keys().collect::<Vec<_>>(), [""]);
    assert_eq!((tree[""].mode, tree[""].links), (0o40755, 2));
}

#[test]
fn every_kind_of_inode_reads_back() {
    if !available("every_kind_of_inode_reads_back") {
        return;
    }
    let tree = read(&built(|b| {
        let owned = Attr {
            mode: 0o6755,
            uid: 0x0012_3456,
            gid: u32::MAX - 1,
            mtime: Timestamp { secs: 1 << 33, nanos: 123_456_789 },
            xattrs: Vec::new(),
        };
        let content = file(b, &[b'x'; 10_000]);
        let id = put(b, "file", owned, content);
        b.tree.link(Tree::ROOT, b"linked", id, 1).unwrap();
        put(b, "dir", attr(0o1777), Content::Dir);
        put(b, "fast", attr(0o777), Content::Symlink(vec![b'a'; 59].into()));
        put(b, "slow", attr(0o777), Content::Symlink(vec![b'b'; 60].into()));
        put(b, "longest", attr(0o777), Content::Symlink(vec![b'c'; MAX_SYMLINK].into()));
        put(b, "null", attr(0o666), Content::CharDevice { major: 1, minor: 3 });
        put(b, "disk", attr(0o660), Content::BlockDevice { major: 259, minor: 300_000 });
        put(b, "fifo", attr(0o600), Content::Fifo);
        put(b, "socket", attr(0o755), Content::Socket);
        let old = Timestamp { secs: -86_400, nanos: 5 };
        put(b, "before 1970", Attr { mtime: old, ..attr(0) }, Content::Fifo);
        put(b, &"n".repeat(255), attr(0o644), Content::Fifo);
    }));
    let one = &tree["file"];
    assert_eq!((one.mode, one.uid, one.gid, one.links), (0o106_755, 0x0012_3456, u32::MAX - 1, 2));
    assert_eq!(one.mtime, (1 << 33, 123_456_789));
    assert_eq!(one.content, vec![b'x'; 10_000]);
    assert_eq!(tree["linked"], *one);
    assert_eq!((tree["dir"].mode, tree["dir"].links), (0o41_777, 2));
    assert_eq!(tree["fast"].content, vec![b'a'; 59]);
    assert_eq!(tree["slow"].content, vec![b'b'; 60]);
    assert_eq!(tree["longest"].content, vec![b'c'; MAX_SYMLINK]);
    assert_eq!((tree["null"].mode, tree["null"].device), (0o20_666, Some((1, 3))));
    assert_eq!((tree["disk"].mode, tree["disk"].device), (0o60_660, Some((259, 300_000))));
    assert_eq!((tree["fifo"].mode, tree["socket"].mode), (0o10_600, 0o140_755));
    assert_eq!(tree["before 1970"].mtime, (-86_400, 5));
    assert!(tree.contains_key(&"n".repeat(255)));
}

#[test]
fn xattrs_fit_into_the_inode_then_into_a_block_then_not_at_all() {
    if !available("xattrs_fit_into_the_inode_then_into_a_block_then_not_at_all") {
        return;
    }
    let with = |list: &[(&str, usize)]| Attr {
        xattrs: list
            .iter()
            .map(|(n, len)| Xattr::new(n.as_bytes(), &vec![b'v'; *len]).unwrap())
            .collect(),
        ..attr(0o644)
    };
    // Ids stand only with USER and GROUP; libext2fs reads 0 for the others.
    let entry = |tag: u16, id: u32| {
        let mut bytes = [tag.to_le_bytes(), [4, 0]].concat();
        bytes.extend(id.to_le_bytes());
        bytes
    };
    let acl = [
        2u32.to_le_bytes().to_vec(),
        entry(1, 0),
        entry(2, 1000),
        entry(4, 0),
        entry(16, 0),
        entry(32, 0),
    ];
    let acl = acl.concat();
    let cases: [(&str, &[(&str, usize)]); 4] = [
        ("inside", &[("user.a", 10), ("security.capability", 20)]),
        ("outside", &[("user.a", 3000), ("trusted.empty", 0), ("user.b", 7)]),
        ("both", &[("user.small", 40), ("user.large", 4000)]),
        ("many", &[("user.z", 1), ("user.yy", 1), ("security.x", 33), ("user.xxx", 500)]),
    ];
    let tree = read(&built(|b| {
        for (name, list) in cases {
            put(b, name, with(list), Content::Fifo);
        }
        let xattrs = vec![Xattr::new(b"system.posix_acl_access", &acl).unwrap()];
        put(b, "acl", Attr { xattrs, ..attr(0o644) }, Content::Fifo);
    }));
    for (name, list) in cases {
        let expected: BTreeMap<String, Vec<u8>> =
            list.iter().map(|(n, len)| ((*n).to_owned(), vec![b'v'; *len])).collect();
        assert_eq!(tree[name].xattrs, expected, "{name}");
    }
    assert_eq!(tree["acl"].xattrs["system.posix_acl_access"], acl);

    let image = NamedTempFile::new().unwrap();
    let mut builder = Ext4Builder::new(image.reopen().unwrap(), 1 << 30).unwrap();
    put(&mut builder, "greedy", with(&[("user.a", 4000), ("user.b", 4000)]), Content::Fifo);
    let error = builder.finish(&IDENTITY).unwrap_err();
    assert!(error.to_string().contains("`greedy`"), "{error}");
    assert!(Xattr::new(b"com.example.unknown", b"").is_none());
    assert!(Xattr::new(b"system.posix_acl_access", b"junk").is_none());
}

#[test]
fn sparse_files_keep_their_holes_under_deep_extent_trees() {
    if !available("sparse_files_keep_their_holes_under_deep_extent_trees") {
        return;
    }
    for count in [4u64, 5, 340, 1361, 3000] {
        let parts: Vec<(u64, u64)> = (0..count).map(|i| (i * 3 * BLOCK, BLOCK)).collect();
        let data: Vec<u8> = (0..count).flat_map(|i| vec![(i % 255) as u8 + 1; 4096]).collect();
        let size = count * 3 * BLOCK;
        let image = built(|b| {
            let content = Content::File(b.store_sparse(size, &parts, &mut &data[..]).unwrap());
            put(b, "sparse", attr(0o644), content);
        });
        let bytes = &read(&image)["sparse"].content;
        assert_eq!(bytes.len() as u64, size);
        for (i, part) in bytes.chunks(3 * 4096).enumerate() {
            assert!(part[..4096].iter().all(|&byte| byte == (i % 255) as u8 + 1));
            assert!(part[4096..].iter().all(|&byte| byte == 0));
        }
        assert!(image.as_file().metadata().unwrap().len() < size);
    }
}

#[test]
fn removed_files_leave_room_that_is_used_again_and_no_trace() {
    if !available("removed_files_leave_room_that_is_used_again_and_no_trace") {
        return;
    }
    let mut small = None;
    let image = built(|b| {
        let secret = file(b, &[0xaa; 1 << 20]);
        put(b, "secret", attr(0o600), secret);
        let kept = file(b, b"kept");
        put(b, "kept", attr(0o600), kept);
        b.tree.remove(Tree::ROOT, b"secret");
        let data = b.store(5000, &mut &[0x55; 5000][..]).unwrap();
        small = Some(data.extents[0].run);
        put(b, "small", attr(0o600), Content::File(data));
    });
    let bytes = std::fs::read(image.path()).unwrap();
    assert!(!bytes.contains(&0xaa), "what was removed is still on the disk");
    let tree = read(&image);
    assert_eq!(tree["kept"].content, b"kept");
    assert_eq!(tree["small"].content, vec![0x55; 5000]);
    assert_eq!(small.unwrap().start, finish::first_data_block((8 << 30) / BLOCK));
}

#[test]
fn the_last_file_removed_leaves_zeros_for_the_tables() {
    if !available("the_last_file_removed_leaves_zeros_for_the_tables") {
        return;
    }
    let image = built(|b| {
        let last = file(b, &[0xaa; 3 << 20]);
        put(b, "last", attr(0o600), last);
        b.tree.remove(Tree::ROOT, b"last");
    });
    assert!(!std::fs::read(image.path()).unwrap().contains(&0xaa));
    assert_eq!(read(&image).len(), 1);
}

#[test]
fn directories_of_12000_names_and_groups_full_of_inodes_are_sound() {
    if !available("directories_of_12000_names_and_groups_full_of_inodes_are_sound") {
        return;
    }
    let image = built(|b| {
        let dir = put(b, "many", attr(0o755), Content::Dir);
        for i in 0..12_000 {
            let name = format!("{i:->200}");
            b.tree.put(dir, name.as_bytes(), attr(0o644), Content::Fifo, 1).unwrap();
        }
        // More inodes than one group has, with next to no blocks.
        for i in 0..70_000 {
            put(b, &i.to_string(), attr(0o644), Content::Fifo);
        }
    });
    assert_clean(image.path());
    assert_eq!(image.as_file().metadata().unwrap().len() / BLOCK / 32768, 2);
}

#[test]
fn more_subdirectories_than_links_can_count_are_sound() {
    if !available("more_subdirectories_than_links_can_count_are_sound") {
        return;
    }
    let image = built(|b| {
        for i in 0..65_010 {
            put(b, &i.to_string(), attr(0o755), Content::Dir);
        }
    });
    assert_clean(image.path());
}

#[test]
fn a_full_image_says_so() {
    let image = NamedTempFile::new().unwrap();
    let mut builder = Ext4Builder::new(image.reopen().unwrap(), 1 << 20).unwrap();
    assert!(matches!(builder.store(2 << 20, &mut &[0; 1024][..]), Err(Ext4Error::Full)));
    let metadata_does_not_fit = Ext4Builder::new(image.reopen().unwrap(), 8192).unwrap();
    assert!(matches!(metadata_does_not_fit.finish(&IDENTITY), Err(Ext4Error::Full)));
}

/// What a test does to the tree, by names from a small set so that they meet.
#[derive(Debug, Clone)]
enum Op {
    Dir(Vec<u8>, u16),
    File(Vec<u8>, u16),
    Symlink(Vec<u8>, u16),
    Link(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0u8..4, 1..4)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (path(), 0u16..0o7777).prop_map(|(path, n)| Op::Dir(path, n)),
        3 => (path(), 0u16..20_000).prop_map(|(path, n)| Op::File(path, n)),
        1 => (path(), 1u16..200).prop_map(|(path, n)| Op::Symlink(path, n)),
        2 => (path(), path()).prop_map(|(path, target)| Op::Link(path, target)),
        2 => path().prop_map(Op::Remove),
    ]
}

/// The same operations on plain maps: path → inode → (mode, content).
#[derive(Default)]
struct Model {
    paths: BTreeMap<String, usize>,
    inodes: Vec<(u32, Vec<u8>)>,
}

impl Model {
    fn is_dir(&self, path: &str) -> bool {
        path.is_empty()
            || self.paths.get(path).is_some_and(|&i| self.inodes[i].0 & 0o170_000 == 0o40_000)
    }

    fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.paths.retain(|name, _| name != path && !name.starts_with(&below));
    }

    fn put(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        if mode & 0o170_000 == 0o40_000 && self.is_dir(path) {
            let inode = self.paths[path];
            self.inodes[inode].0 = mode;
            return;
        }
        self.remove(path);
        self.paths.insert(path.to_owned(), self.inodes.len());
        self.inodes.push((mode, content));
    }
}

fn text(path: &[u8]) -> String {
    path.iter().map(|name| format!("n{name}")).collect::<Vec<_>>().join("/")
}

fn bytes(n: u16) -> Vec<u8> {
    (0..n).map(|i| (i.wrapping_mul(31) ^ n).to_le_bytes()[0]).collect()
}

fn apply(model: &mut Model, builder: &mut Ext4Builder, op: &Op) {
    let (Op::Dir(path, _)
    | Op::File(path, _)
    | Op::Symlink(path, _)
    | Op::Link(path, _)
    | Op::Remove(path)) = op;
    let parent = text(&path[..path.len() - 1]);
    if !model.is_dir(&parent) {
        return;
    }
    let names: Vec<String> = path.iter().map(|name| format!("n{name}")).collect();
    let (name, above) = names.split_last().unwrap();
    let above: Vec<&[u8]> = above.iter().map(String::as_bytes).collect();
    let dir = builder.tree.find_directory(&above).unwrap();
    let mut put = |mode: u16, content| {
        builder.tree.put(dir, name.as_bytes(), attr(mode), content, 1).unwrap();
    };
    match op {
        Op::Dir(_, mode) => {
            put(*mode, Content::Dir);
            model.put(&text(path), 0o40_000 | u32::from(*mode), Vec::new());
        }
        Op::File(_, n) => {
            let content = file(builder, &bytes(*n));
            builder.tree.put(dir, name.as_bytes(), attr(0o644), content, 1).unwrap();
            model.put(&text(path), 0o100_644, bytes(*n));
        }
        Op::Symlink(_, n) => {
            let target = vec![b't'; usize::from(*n)];
            put(0o777, Content::Symlink(target.clone().into()));
            model.put(&text(path), 0o120_777, target);
        }
        Op::Link(_, target) => {
            let (to, path) = (text(target), text(path));
            let Some(&inode) = model.paths.get(&to) else { return };
            if model.is_dir(&to) || to.starts_with(&format!("{path}/")) {
                return;
            }
            let (last, above) = target.split_last().unwrap();
            let above: Vec<String> = above.iter().map(|name| format!("n{name}")).collect();
            let above: Vec<&[u8]> = above.iter().map(String::as_bytes).collect();
            // A symbolic link on the way would lead elsewhere: the model has none.
            let there = builder.tree.find_directory(&above).unwrap();
            let id = builder.tree.lookup(there, format!("n{last}").as_bytes()).unwrap();
            builder.tree.link(dir, name.as_bytes(), id, 1).unwrap();
            model.remove(&path);
            model.paths.insert(path, inode);
        }
        Op::Remove(_) => {
            builder.tree.remove(dir, name.as_bytes());
            model.remove(&text(path));
        }
    }
}

fn compare(model: &Model, image: &Path) -> Result<(), TestCaseError> {
    assert_clean(image);
    let mut found = read_tree(image);
    found.remove("");
    prop_assert_eq!(found.keys().collect::<Vec<_>>(), model.paths.keys().collect::<Vec<_>>());
    for (path, inode) in &model.paths {
        let (mode, content) = &model.inodes[*inode];
        prop_assert_eq!(found[path].mode, *mode);
        prop_assert!(found[path].content == *content, "{} has other content", path);
        if !model.is_dir(path) {
            let names = model.paths.values().filter(|other| *other == inode).count();
            prop_assert_eq!(found[path].links as usize, names);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Any order of creating, replacing, linking and removing gives the tree
    /// that it should, on a disk that e2fsck finds clean, twice the same.
    #[test]
    fn any_tree_reads_back(ops in prop::collection::vec(op(), 0..80)) {
        if !available("any_tree_reads_back") {
            return Ok(());
        }
        let mut model = Model::default();
        let image = built(|b| ops.iter().for_each(|op| apply(&mut model, b, op)));
        compare(&model, image.path())?;
        let mut model = Model::default();
        let again = built(|b| ops.iter().for_each(|op| apply(&mut model, b, op)));
        prop_assert!(std::fs::read(image.path()).unwrap() == std::fs::read(again.path()).unwrap());
    }
}
