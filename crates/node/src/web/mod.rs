//! The web UI: its files, and who may use it.
//!
//! The files are built from `web/` and are in the program. The pages are for
//! anyone on loopback, like reading through the API; what they change takes a
//! session ([`session`]), which begins with a link that counts once.

mod assets;
mod session;

pub(crate) use self::assets::router;
pub(crate) use self::session::{LoginKeys, Sessions};
