//! The source side: watches folders, and publishes what is in them.
mod error;
mod index;
mod path_key;
mod publish;
mod root_id;
mod rules;
mod settings;
mod status;
mod watch;
