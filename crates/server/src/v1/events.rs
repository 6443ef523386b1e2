//! Live status changes as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use backup::BackupEvent;
use futures::Stream;
use futures::stream;
use node::Services;
use serde::Serialize;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use super::{folders, sources};

/// Interval of empty lines, by which a dead connection is detected.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

fn event(name: &str, data: &impl Serialize) -> Event {
    let data = serde_json::to_string(data).unwrap_or_default();
    Event::default().event(name).data(data)
}

/// Returns an event of the backup server side in the form of the API.
fn backup_event(happened: &BackupEvent) -> Event {
    match happened {
        BackupEvent::Source(status) => event("source", &sources::to_api(status)),
        BackupEvent::SourceRemoved { name } => event("source-removed", &json!({ "name": name })),
        BackupEvent::SnapshotCommitted {
            id,
            source_name,
            source,
            folder,
            folder_name,
            sequence,
        } => event(
            "snapshot",
            &json!({
                "id": id.to_string(),
                "source": source_name,
                "source_peer_id": source.to_string(),
                "folder_id": folder,
                "folder_name": folder_name,
                "sequence": sequence,
            }),
        ),
    }
}

/// Streams the events from now on: `folder` with a Folder, `source` with a Source,
/// `source-removed` with its name, `snapshot` with the id, the source, the folder and
/// the sequence number of a new snapshot, and `reload` after events were lost: the
/// client must request everything again.
#[utoipa::path(
    get,
    path = "/events",
    responses((status = 200, description = "A stream that does not end",
        content_type = "text/event-stream", body = String))
)]
pub(crate) async fn events(
    State(services): State<Services>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let folders = services.sync.subscribe();
    let sources = services.backup_daemon.subscribe();
    let stop = services.stop_token();
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
                    Ok(happened) => backup_event(&happened),
                    Err(RecvError::Lagged(_)) => event("reload", &()),
                    Err(RecvError::Closed) => return None,
                },
            };
            Some((Ok(next), all))
        }
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}
