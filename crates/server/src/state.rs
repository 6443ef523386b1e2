//! The state of the HTTP handlers.

use axum::extract::FromRef;
use node::Services;

use crate::session::{OneTimeKeys, Sessions};

/// The services of the instance, and what the web UI needs to sign in. Handlers
/// extract the part that they need.
#[derive(Clone)]
pub(crate) struct ApiState {
    pub(crate) services: Services,
    pub(crate) sign_in: SignIn,
}

/// The state that signing in to the web UI needs.
#[derive(Clone, Debug)]
pub(crate) struct SignIn {
    /// The sessions of browsers.
    pub(crate) sessions: Sessions,
    /// The keys of links that start a session.
    pub(crate) links: OneTimeKeys,
    /// The tickets of downloads.
    pub(crate) tickets: OneTimeKeys,
}

impl SignIn {
    /// Reads the sessions of an earlier run.
    pub(crate) fn open(services: &Services) -> Self {
        Self {
            sessions: Sessions::open(&services.token, &services.data_dir),
            links: OneTimeKeys::for_links(),
            tickets: OneTimeKeys::for_downloads(),
        }
    }
}

impl FromRef<ApiState> for Services {
    fn from_ref(state: &ApiState) -> Self {
        state.services.clone()
    }
}

impl FromRef<ApiState> for SignIn {
    fn from_ref(state: &ApiState) -> Self {
        state.sign_in.clone()
    }
}
