//! Lays a tree's text out as files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

pub(crate) fn lay_out(text: &str, dir: &Path) {
    // Links to directories first: other lines have files in them.
    for (path, target) in text.lines().filter_map(|line| line.split_once(" @ ")) {
        let link = below(dir, path);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        fs::create_dir_all(resolve(link.parent().unwrap(), target)).unwrap();
        symlink(target, link).unwrap();
    }
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with('#') || line.contains(" @ ") {
            continue;
        }
        let (path, write): (&str, Write) = if let Some(path) = line.strip_suffix(" <<") {
            let lines: Vec<&str> = lines.by_ref().take_while(|line| *line != "<<").collect();
            (path, Write::File(lines.join("\n")))
        } else if let Some((path, target)) = line.split_once(" -> ") {
            (path, Write::Link(target.to_owned()))
        } else if let Some((path, text)) = line.split_once(" =") {
            (path, Write::File(text.trim_start().to_owned()))
        } else if let Some(path) = line.strip_suffix('/') {
            (path, Write::Dir)
        } else {
            panic!("no line of a tree: {line}");
        };
        for (path, number) in each(path) {
            write_at(&below(dir, &path), &write, number);
        }
    }
}

enum Write {
    File(String),
    Link(String),
    Dir,
}

fn write_at(path: &Path, write: &Write, number: Option<i64>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    match write {
        Write::File(text) => fs::write(path, filled(text, number) + "\n").unwrap(),
        Write::Link(target) => symlink(target, path).unwrap(),
        Write::Dir => fs::create_dir_all(path).unwrap(),
    }
}

/// The paths that `a{0..3}b` stands for, with their numbers.
fn each(path: &str) -> Vec<(String, Option<i64>)> {
    let Some((before, rest)) = path.split_once('{') else { return vec![(path.to_owned(), None)] };
    let (range, after) = rest.split_once('}').unwrap();
    let (from, to) = range.split_once("..").unwrap();
    let (from, to): (i64, i64) = (from.parse().unwrap(), to.parse().unwrap());
    (from..=to).map(|n| (format!("{before}{n}{after}"), Some(n))).collect()
}

/// With `{}`, `{+8}` or `{-8}` in place.
fn filled(text: &str, number: Option<i64>) -> String {
    let (Some(number), Some((before, rest))) = (number, text.split_once('{')) else {
        return text.to_owned();
    };
    let (change, after) = rest.split_once('}').unwrap();
    let change: i64 = if change.is_empty() { 0 } else { change.parse().unwrap() };
    format!("{before}{}{after}", number + change)
}

fn below(dir: &Path, path: &str) -> PathBuf {
    dir.join(path.trim_start_matches('/'))
}

fn resolve(from: &Path, target: &str) -> PathBuf {
    let mut path = from.to_owned();
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            part => path.push(part),
        }
    }
    path
}
