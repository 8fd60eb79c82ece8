//! Files that a configuration names and that are read later on: those that are missing, or not to be read.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::config::{ServiceKind, Settings};
use crate::identity::Source;

/// A sentence for each that is not there or, where a `user` who exists is named, that they may not read.
pub(super) fn warnings(settings: &Settings, user: Option<&str>, config: &[PathBuf]) -> Vec<String> {
    let mut files: Vec<&PathBuf> = config.iter().collect();
    match &settings.onboarding {
        Some(Source::SshCa(ca)) => files.extend([&ca.key].into_iter().chain(&ca.passphrase)),
        Some(Source::KeyFile(of)) => {
            files.extend(
                [&of.key]
                    .into_iter()
                    .chain(&of.passphrase)
                    .chain(&of.certificate),
            );
        }
        Some(Source::Command(_)) | None => {}
    }
    for service in &settings.services {
        let ServiceKind::SshMultiplexer(mux) = &service.kind;
        for bastion in mux.clusters.iter().filter_map(|one| one.bastion.as_ref()) {
            files.extend(bastion.identity_file.iter().chain(&bastion.ssh_config_path));
        }
    }
    files.sort_unstable();
    files.dedup();
    let ids = user.and_then(|user| Some((user, id("-u", user)?[0], id("-G", user)?)));
    let wrong = |path: &&PathBuf| match (fs::metadata(path), &ids) {
        (Err(error), _) if error.kind() == ErrorKind::NotFound => {
            Some(format!("{} is not there", path.display()))
        }
        (Ok(_), Some((user, uid, gids))) if !may_read(path, *uid, gids) => {
            let path = path.display();
            Some(format!(
                "{path} cannot be read by {user} (look at owner and mode, also of the directories above)"
            ))
        }
        _ => None,
    };
    files.iter().filter_map(wrong).collect()
}

/// What `id` says, who knows all that this machine asks for users.
fn id(what: &str, user: &str) -> Option<Vec<u32>> {
    let said = Command::new("id").args([what, user]).output().ok()?;
    let words = String::from_utf8(said.stdout).ok()?;
    let ids: Vec<u32> = words.split_whitespace().flat_map(str::parse).collect();
    (said.status.success() && !ids.is_empty()).then_some(ids)
}

fn may_read(path: &Path, uid: u32, gids: &[u32]) -> bool {
    // What cannot be looked at may be as it should.
    let may = |path: &Path, wanted: u32| {
        fs::metadata(path).map_or(true, |there| {
            let of_group = if gids.contains(&there.gid()) { 3 } else { 0 };
            let class = if there.uid() == uid { 6 } else { of_group };
            there.mode() >> class & wanted != 0
        })
    };
    uid == 0 || may(path, 4) && path.ancestors().skip(1).all(|above| may(above, 1))
}
