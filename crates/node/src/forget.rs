//! Dropping the state of removed folders.
//!
//! [`RemovedFolders`](crate::RemovedFolders) lists the folders whose state must
//! still be dropped, so that the next start continues if the instance ends
//! first.

use std::time::Duration;

use sync::SyncError;
use types::{FolderId, with_causes};

use crate::services::Services;

/// Maximum number of attempts to drop the state of a folder that is still being
/// processed …
const TRIES_MAX: u32 = 100;
/// … and the pause between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// Drops the state of a removed folder in the background.
pub fn forget_folder(services: &Services, folder: FolderId) {
    let (services, stop) = (services.clone(), services.stop_token());
    let tasks = services.tasks.clone();
    tasks.spawn("forget", async move {
        tokio::select! {
            () = forget(&services, folder) => {}
            () = stop.cancelled() => {}
        }
    });
}

/// Drops the state of a folder once the folder is no longer watched. State that
/// cannot be dropped only uses disk space.
async fn forget(services: &Services, folder: FolderId) {
    for _ in 0..TRIES_MAX {
        let (sync, id) = (services.sync.clone(), folder.clone());
        match tokio::task::spawn_blocking(move || sync.forget(&id)).await {
            Ok(Err(SyncError::StillConfigured(_))) => tokio::time::sleep(PAUSE).await,
            Ok(Ok(())) => {
                services.gc.request();
                unlist(services, folder).await;
                return;
            }
            Ok(Err(error)) => {
                let error = with_causes(&error);
                tracing::warn!(%folder, error, "cannot drop the state of a removed folder");
                return;
            }
            Err(error) => {
                tracing::warn!(%folder, %error, "cannot drop the state of a removed folder");
                return;
            }
        }
    }
    tracing::warn!(%folder, "cannot drop the state of a removed folder: it is still in use");
}

/// Takes a folder from the list of removed folders.
async fn unlist(services: &Services, folder: FolderId) {
    let removed = services.removed_folders.clone();
    let unlisted = tokio::task::spawn_blocking(move || removed.unlist(&folder)).await;
    if let Ok(Err(error)) = unlisted {
        tracing::warn!(%error, "cannot write the list of removed folders");
    }
}

/// Drops the state of folders that were removed while no instance ran, or
/// shortly before the last instance ended.
pub(crate) async fn forget_removed(services: Services) {
    let removed = services.removed_folders.clone();
    let listed = match tokio::task::spawn_blocking(move || removed.list()).await {
        Ok(Ok(listed)) => listed,
        Ok(Err(error)) => {
            tracing::warn!(%error, "cannot read the list of removed folders");
            return;
        }
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    for folder in listed {
        // If it is configured, its removal was not completed.
        if services.settings.get().folder(&folder).is_some() {
            unlist(&services, folder).await;
        } else {
            forget(&services, folder).await;
        }
    }
}
