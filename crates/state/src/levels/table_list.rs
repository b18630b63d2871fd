//! The ordered list of tables, with the marks of running compactions.
//!
//! A new table goes to the top, a relocation table to its mark, and a merged table to the place of
//! the tables that it replaces. A merge never takes tables from both sides of a mark. Otherwise the
//! relocation table at the mark could come to lie above an entry that is newer than its own.

use std::sync::Arc;

use hightower_table::{TableHasher, TableReader};

use crate::error::StateError;
use crate::mutants::planted;

/// A table as a level.
pub(crate) struct TableLevel {
    pub(crate) reader: Arc<TableReader>,
    /// Computed once, because it costs as much as hashing a key.
    pub(crate) hasher: TableHasher,
}

/// A place in the list of tables, from [`LeveledWriter::mark`](crate::LeveledWriter::mark): above
/// all tables that existed when it was made, and below all later ones.
#[derive(Debug, PartialEq, Eq)]
pub struct TableMark(u64);

/// Newest first.
#[derive(Default)]
pub(crate) struct TableList {
    slots: Vec<ListSlot>,
    marks_made: u64,
}

#[derive(Clone)]
enum ListSlot {
    Table(Arc<TableLevel>),
    Mark(u64),
}

impl TableLevel {
    fn new(reader: Arc<TableReader>) -> Arc<Self> {
        let hasher = reader.hasher();
        Arc::new(Self { reader, hasher })
    }
}

impl ListSlot {
    fn id(&self) -> Option<u64> {
        match self {
            Self::Table(table) => Some(table.reader.id()),
            Self::Mark(_) => None,
        }
    }
}

impl TableList {
    /// The tables, newest first.
    pub(crate) fn tables(&self) -> Vec<Arc<TableLevel>> {
        let table = |slot: &ListSlot| match slot {
            ListSlot::Table(table) => Some(Arc::clone(table)),
            ListSlot::Mark(_) => None,
        };
        self.slots.iter().filter_map(table).collect()
    }

    /// Adds a table above all others.
    pub(crate) fn push(&mut self, table: Arc<TableReader>) -> Result<(), StateError> {
        self.check_id(&table, &[])?;
        self.slots.insert(0, ListSlot::Table(TableLevel::new(table)));
        Ok(())
    }

    /// Adds a mark above all current tables.
    pub(crate) fn mark(&mut self) -> TableMark {
        self.marks_made += 1;
        self.slots.insert(0, ListSlot::Mark(self.marks_made));
        TableMark(self.marks_made)
    }

    /// Replaces a mark by a table, or removes the mark.
    pub(crate) fn replace_mark(&mut self, mark: &TableMark, table: Option<Arc<TableReader>>) -> Result<(), StateError> {
        if let Some(table) = &table {
            self.check_id(table, &[])?;
        }
        let is_it = |slot: &ListSlot| matches!(slot, ListSlot::Mark(number) if *number == mark.0);
        let place = self.slots.iter().position(is_it).ok_or(StateError::UnknownMark)?;
        self.slots.remove(place);
        if let Some(table) = table {
            let place = if planted("levels_relocations_on_top") { 0 } else { place };
            self.slots.insert(place, ListSlot::Table(TableLevel::new(table)));
        }
        Ok(())
    }

    /// Replaces several neighbours, newest first, by one table or none.
    pub(crate) fn replace(&mut self, replaced: &[u64], merged: Option<Arc<TableReader>>) -> Result<(), StateError> {
        if let Some(merged) = &merged {
            self.check_id(merged, replaced)?;
        }
        let first = replaced.first().ok_or(StateError::NotAdjacent)?;
        let start = self.slots.iter().position(|slot| slot.id() == Some(*first)).ok_or(StateError::NotAdjacent)?;
        let (mut end, mut marks) = (start, Vec::new());
        for id in replaced {
            while let Some(ListSlot::Mark(mark)) = self.slots.get(end) {
                marks.push(ListSlot::Mark(*mark));
                end += 1;
            }
            if self.slots.get(end).and_then(ListSlot::id) != Some(*id) {
                return Err(StateError::NotAdjacent);
            }
            end += 1;
        }
        if !marks.is_empty() && !planted("levels_merge_across_mark") {
            return Err(StateError::AcrossMark);
        }
        let merged = merged.map(|merged| ListSlot::Table(TableLevel::new(merged)));
        self.slots.splice(start..end, marks.into_iter().chain(merged));
        Ok(())
    }

    /// Replaces all tables by these, newest first.
    pub(crate) fn replace_all(&mut self, tables: Vec<Arc<TableReader>>) -> Result<(), StateError> {
        if self.slots.iter().any(|slot| matches!(slot, ListSlot::Mark(_))) {
            return Err(StateError::AcrossMark);
        }
        let mut ids: Vec<_> = tables.iter().map(|table| table.id()).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair.first() == pair.last()) {
            return Err(StateError::TableIdInUse);
        }
        self.slots = tables.into_iter().map(|table| ListSlot::Table(TableLevel::new(table))).collect();
        Ok(())
    }

    fn check_id(&self, table: &TableReader, replaced: &[u64]) -> Result<(), StateError> {
        let id = Some(table.id());
        let in_use = self.slots.iter().any(|slot| slot.id() == id) || replaced.iter().any(|old| Some(*old) == id);
        if in_use { Err(StateError::TableIdInUse) } else { Ok(()) }
    }
}
