//! Checks the rules that relate several keys.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use types::FolderId;

use crate::addresses::peer_id_of;
use crate::check::Check;
use crate::config::Config;
use crate::error::Conflict;
use crate::values::FolderPath;

/// Reports every conflict between two values of `config`, which was read from
/// `root`.
pub(crate) fn check_conflicts(check: &mut Check<'_>, config: &Config, root: &DeTable<'_>) {
    let mut conflicts = Conflicts { check, config, root };
    conflicts.binds();
    conflicts.ports();
    conflicts.folders();
    conflicts.sources();
    if config.backup_server.keep.is_nothing() {
        conflicts.report("backup_server.keep", Conflict::KeepNothing);
    }
}

struct Conflicts<'a, 't, 'r> {
    check: &'a mut Check<'t>,
    config: &'a Config,
    root: &'a DeTable<'r>,
}

impl Conflicts<'_, '_, '_> {
    fn report(&mut self, key: &str, conflict: Conflict) {
        self.check.report(key, &locate(self.root, key), conflict.into());
    }

    fn binds(&mut self) {
        let binds = &self.config.node.bind;
        for (at, &address) in binds.iter().enumerate() {
            let same = binds[..at].iter().copied().find(|other| *other == address);
            let wider = binds.iter().copied().find(|other| {
                *other != address && other.is_unspecified() && other.is_ipv4() == address.is_ipv4()
            });
            if let Some(other) = same.or(wider) {
                let conflict = Conflict::SameBind { address, other };
                self.report(&format!("node.bind[{at}]"), conflict);
            }
        }
    }

    fn ports(&mut self) {
        let config = self.config;
        let binds_loopback = config.node.bind.iter().any(|address| {
            address.is_unspecified()
                || *address == IpAddr::from(Ipv4Addr::LOCALHOST)
                || *address == IpAddr::from(Ipv6Addr::LOCALHOST)
        });
        // A disabled server uses no port. Enabling it is checked again.
        let sockets = [
            ("node.listen_port", config.node.listen_port, true),
            ("node.api_port", config.node.api_port, true),
            ("manifest_server.port", config.manifest_server.port, config.manifest_server.enabled),
            (
                "backup_server.trigger_port",
                config.backup_server.trigger_port,
                config.backup_server.enabled,
            ),
        ];
        for (at, &(key, port, enabled)) in sockets.iter().enumerate() {
            let other = sockets[..at].iter().find(|(other_key, other_port, other_enabled)| {
                let with_api = key == "node.api_port" || *other_key == "node.api_port";
                *other_port == port && *other_enabled && (binds_loopback || !with_api)
            });
            if let Some(&(other_key, ..)) = other
                && port != 0
                && enabled
            {
                // Blame the key that the file sets, rather than a default.
                let is_given = |key| lookup(self.root, key).is_some();
                let (key, other) = if is_given(key) || !is_given(other_key) {
                    (key, other_key)
                } else {
                    (other_key, key)
                };
                self.report(key, Conflict::SamePort { port, other });
            }
        }
    }

    fn folders(&mut self) {
        let folders = &self.config.sync.folders;
        let mut ids: HashMap<&FolderId, &FolderPath> = HashMap::new();
        for (at, folder) in folders.iter().enumerate() {
            if let Some(path) = ids.get(&folder.id) {
                let path = path.as_path().to_owned();
                let conflict = Conflict::SameFolderId { id: folder.id.clone(), path };
                self.report(&format!("sync.folders[{at}].id"), conflict);
            } else {
                ids.insert(&folder.id, &folder.path);
            }
        }
        for (at, folder) in folders.iter().enumerate() {
            for (key, hook) in [
                ("before_publish", &folder.before_publish),
                ("after_publish", &folder.after_publish),
            ] {
                if let Some(program) = hook.first().filter(|one| !one.as_str().starts_with('/')) {
                    let conflict = Conflict::RelativeProgram(program.to_string());
                    self.report(&format!("sync.folders[{at}].{key}"), conflict);
                }
            }
        }
        let mut paths: HashMap<&FolderPath, &FolderId> = HashMap::new();
        for (at, folder) in folders.iter().enumerate() {
            if let Some(id) = paths.get(&folder.path) {
                let path = folder.path.as_path().to_owned();
                let conflict = Conflict::SameFolder { path, id: (*id).clone() };
                self.report(&format!("sync.folders[{at}].path"), conflict);
            } else {
                paths.insert(&folder.path, &folder.id);
            }
        }
    }

    fn sources(&mut self) {
        let sources = &self.config.backup_server.source_peers;
        for (at, source) in sources.iter().enumerate() {
            let path = format!("backup_server.source_peers[{at}]");
            if sources[..at].iter().any(|other| other.name == source.name) {
                let conflict = Conflict::SameSourceName(source.name.to_string());
                self.report(&format!("{path}.name"), conflict);
            }
            if let Some(other) = sources[..at].iter().find(|other| other.peer_id == source.peer_id)
            {
                let conflict = Conflict::SameSourcePeer(other.name.to_string());
                self.report(&format!("{path}.peer_id"), conflict);
            }
            for (index, address) in source.addresses.iter().enumerate() {
                if let Some(found) = peer_id_of(address).filter(|peer| *peer != source.peer_id) {
                    let conflict = Conflict::OtherPeer { found, expected: source.peer_id };
                    self.report(&format!("{path}.addresses[{index}]"), conflict);
                }
            }
        }
    }
}

/// Returns the span of the value at `path`, or of the longest prefix of the
/// path that exists.
fn locate(root: &DeTable<'_>, path: &str) -> Range<usize> {
    let mut span = 0..0;
    let mut end = Some(path.len());
    while let Some(at) = end {
        if let Some(value) = lookup(root, &path[..at]) {
            span = value.span();
            break;
        }
        end = path[..at].rfind(['.', '[']);
    }
    span
}

fn lookup<'a, 'i>(root: &'a DeTable<'i>, path: &str) -> Option<&'a Spanned<DeValue<'i>>> {
    let mut value: Option<&Spanned<DeValue<'_>>> = None;
    for part in path.split(['.', '[']) {
        let next = match part.strip_suffix(']') {
            Some(index) => value?.get_ref().as_array()?.get(index.parse::<usize>().ok()?)?,
            None => match value {
                Some(value) => value.get_ref().as_table()?.get(part)?,
                None => root.get(part)?,
            },
        };
        value = Some(next);
    }
    value
}
