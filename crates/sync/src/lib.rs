//! The source side: watches folders, and publishes what is in them.
mod error;
mod index;
mod path_key;
mod root_id;
mod settings;
mod status;
mod publish;
