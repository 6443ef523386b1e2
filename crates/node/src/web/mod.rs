//! The web UI: its files, and who may use it.
//!
//! The files are built from `web/` and are in the program, for anyone on
//! loopback; what they show and change of the backups takes a session
//! ([`session`]), which begins with a link that counts once.

mod assets;
mod session;

pub(crate) use self::assets::router;
pub(crate) use self::session::{LoginKeys, Sessions};
