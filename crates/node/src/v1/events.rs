//! What happens, as it happens: server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use futures::stream;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;

use super::{ApiState, folders, sources};

/// A line that says nothing, so that a dead connection is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) fn event(name: &str, data: &impl Serialize) -> Event {
    let data = serde_json::to_string(data).unwrap_or_default();
    Event::default().event(name).data(data)
}

/// The events, from now on: `folder` with a [`api::Folder`], `source` with a
/// [`api::Source`], `snapshot` with the source, the folder and the number of a
/// new one, and `reload` where some were lost: then ask for everything again.
#[utoipa::path(
    get,
    path = "/events",
    responses((status = 200, description = "A stream without an end",
        content_type = "text/event-stream", body = String))
)]
pub(crate) async fn events(
    State(state): State<ApiState>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let folders = state.sync.subscribe();
    let sources = state.backup.subscribe();
    let stop = state.stop.clone();
    let events = stream::unfold((folders, sources), move |mut all| {
        let stop = stop.clone();
        async move {
            let (folders, sources) = &mut all;
            let next = tokio::select! {
                () = stop.cancelled() => return None,
                folder = folders.recv() => match folder {
                    Ok(status) => event("folder", &folders::to_api(&status)),
                    Err(RecvError::Lagged(_)) => event("reload", &()),
                    Err(RecvError::Closed) => return None,
                },
                source = sources.recv() => match source {
                    Ok(happened) => sources::event(&happened),
                    Err(RecvError::Lagged(_)) => event("reload", &()),
                    Err(RecvError::Closed) => return None,
                },
            };
            Some((Ok(next), all))
        }
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}
