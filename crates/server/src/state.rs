//! The state of the HTTP handlers.

use axum::extract::FromRef;
use node::Services;

use crate::session::LoginKeys;

/// The services of the instance, and the login keys of the web UI. Handlers
/// extract the part that they need.
#[derive(Clone, Debug)]
pub(crate) struct ApiState {
    pub(crate) services: Services,
    pub(crate) login_keys: LoginKeys,
}

impl FromRef<ApiState> for Services {
    fn from_ref(state: &ApiState) -> Self {
        state.services.clone()
    }
}

impl FromRef<ApiState> for LoginKeys {
    fn from_ref(state: &ApiState) -> Self {
        state.login_keys.clone()
    }
}
