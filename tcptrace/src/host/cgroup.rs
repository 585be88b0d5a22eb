//! Owns cgroups (v2) as users name them: by id or by path.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Where cgroup v2 is mounted; `None` when it is not.
#[must_use]
pub fn mount_point() -> Option<PathBuf> {
    mount_point_in(&fs::read_to_string("/proc/self/mountinfo").ok()?)
}

/// The id of the cgroup that this process belongs to: the inode number of its directory. `None`
/// without cgroup v2.
#[must_use]
pub fn own_id() -> Option<u64> {
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = membership
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))?;
    Some(fs::metadata(mount_point()?.join(path)).ok()?.ino())
}

/// Finds the id of the cgroup that `word` names: a number is an id, anything else a path, absolute
/// or below the mount point.
///
/// # Errors
/// One sentence: no such cgroup; and what to type.
pub fn find(word: &str) -> Result<u64, String> {
    let Some(root) = mount_point() else {
        return Err(format!(
            "cannot look up cgroup {word:?}: cgroup v2 is not mounted; mount it with: mount -t cgroup2 cgroup2 /sys/fs/cgroup"
        ));
    };
    if let Ok(id) = word.parse::<u64>() {
        return if has_id(&root, id) {
            Ok(id)
        } else {
            Err(format!(
                "there is no cgroup with id {id} below {root}; list ids with: find {root} -type d -printf '%i %p\\n'",
                root = root.display()
            ))
        };
    }
    let path = if Path::new(word).starts_with(&root) {
        PathBuf::from(word)
    } else {
        root.join(word.trim_start_matches('/'))
    };
    match fs::metadata(&path) {
        Ok(directory) if directory.is_dir() && path.join("cgroup.procs").exists() => {
            Ok(directory.ino())
        }
        Ok(_) | Err(_) => Err(format!(
            "there is no cgroup {word:?} (looked for {}); list them with: systemd-cgls",
            path.display()
        )),
    }
}

/// The cgroup with this id and all below it, by id. Empty when there is no such cgroup any more.
#[must_use]
pub fn family(id: u64) -> HashSet<u64> {
    let mut found = HashSet::new();
    if let Some(root) = mount_point() {
        collect(&root, id, false, &mut found);
    }
    found
}

/// Adds the ids of `directory` and all below it, as far as they belong to cgroup `id`.
fn collect(directory: &Path, id: u64, inside: bool, found: &mut HashSet<u64>) {
    let Ok(metadata) = fs::symlink_metadata(directory) else {
        return;
    };
    if !metadata.is_dir() {
        return;
    }
    let inside = inside || metadata.ino() == id;
    if inside {
        found.insert(metadata.ino());
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), id, inside, found);
        }
    }
}

fn mount_point_in(mountinfo: &str) -> Option<PathBuf> {
    // Fields after the lone dash: type, source, options. The fifth field before it: where.
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        (after.split(' ').next()? == "cgroup2").then_some(())?;
        before.split(' ').nth(4).map(PathBuf::from)
    })
}

fn has_id(directory: &Path, id: u64) -> bool {
    let Ok(metadata) = fs::metadata(directory) else {
        return false;
    };
    metadata.ino() == id
        || fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .any(|entry| has_id(&entry.path(), id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_point_is_read_from_mountinfo() {
        let hybrid = "29 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
                      30 29 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n";
        assert_eq!(
            mount_point_in(hybrid),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        assert_eq!(mount_point_in("29 23 0:26 / /x rw - tmpfs tmpfs rw"), None);
    }

    #[test]
    fn an_unknown_cgroup_is_named() {
        let sentence = find("no/such/cgroup").unwrap_err();
        assert!(sentence.contains("no/such/cgroup"), "{sentence}");
    }
}
