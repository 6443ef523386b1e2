//! Helpers of the tests.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::Path;

use config::{Config, ConfigError, FolderConfig, SourcePeer};
use libp2p_identity::PeerId;

/// Returns the peer id of a secp256k1 key that does not exist.
pub(crate) fn peer(number: u8) -> PeerId {
    let mut bytes = vec![0x00, 0x25, 0x08, 0x02, 0x12, 0x21, 0x02];
    bytes.extend([number; 32]);
    PeerId::from_bytes(&bytes).unwrap()
}

pub(crate) fn folder(id: &str, path: &str) -> FolderConfig {
    FolderConfig {
        id: id.parse().unwrap(),
        path: path.parse().unwrap(),
        name: None,
        exclude: Vec::new(),
        paused: false,
        one_file_system: true,
        exclude_caches: false,
        before_publish: Vec::new(),
        after_publish: Vec::new(),
    }
}

pub(crate) fn source(name: &str, number: u8) -> SourcePeer {
    SourcePeer {
        name: name.parse().unwrap(),
        manifest_server_url: format!("http://192.0.2.{number}:8085").parse().unwrap(),
        peer_id: peer(number),
        addresses: Vec::new(),
        quota: config::ByteSize::default(),
        folders_max: config::SourcePeer::FOLDERS_MAX_DEFAULT,
    }
}

pub(crate) fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::from_toml(text, Path::new("config.toml"))
}

pub(crate) fn message(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}
