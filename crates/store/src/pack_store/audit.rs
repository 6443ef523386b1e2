//! Compares the index with the packs; for tests.
//!
//! Reads of blocks go through the index, and so do the checks of the tests: a record
//! that the index does not know would go unnoticed.

use std::collections::HashMap;

use super::PackStore;
use super::read::{decode_place, encode_place, pack_of};
use crate::error::StoreError;
use crate::hash_index::VALUES_MAX;

impl PackStore {
    /// Returns a description of every usable record that the index does not know, and
    /// of every place in the index that is not such a record. Packs whose footer and
    /// records are damaged are left out.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] if a pack or the index cannot be read.
    pub fn index_differences(&self) -> Result<Vec<String>, StoreError> {
        let inner = &self.inner;
        let mut packs = HashMap::new();
        for pack in inner.packs.all() {
            let entries = inner.packs.entries(&pack)?;
            let records = pack.records().min(pack.usable_records());
            if entries.len() >= records as usize {
                packs.insert(pack.number(), (pack, records, entries));
            }
        }
        let mut differences = Vec::new();
        for (number, (pack, records, entries)) in &packs {
            for (entry, record) in entries.iter().zip(0..*records) {
                let values = inner.index_values(&entry.hash)?;
                let place = encode_place(*number, record, entry);
                if !values.contains(&place) && values.len() < VALUES_MAX {
                    differences.push(format!(
                        "{}: record {record} is not in the index",
                        pack.path.display()
                    ));
                }
                for value in values {
                    let Some((pack, records, entries)) = packs.get(&pack_of(&value)) else {
                        continue;
                    };
                    let (record, _) = decode_place(entry.hash, &value);
                    let found = entries.get(record as usize);
                    let is_right = record >= *records
                        || found.is_some_and(|found| {
                            encode_place(pack.number(), record, found) == value
                        });
                    if !is_right {
                        differences.push(format!(
                            "{}: the index has a wrong place for record {record}",
                            pack.path.display()
                        ));
                    }
                }
            }
        }
        Ok(differences)
    }
}
