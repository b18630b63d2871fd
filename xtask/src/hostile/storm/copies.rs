//! Backups, restores, exports and salvages during the storm: each copy is compared with the model.

use std::ops::ControlFlow;

use anyhow::{Context, Result, ensure};
use hightower_engine::{CheckLevel, Components, SingleNodeEngine, check, dump, import_snapshot, restore, salvage};

use super::Caller;
use super::reads::check_all;
use crate::hostile::model::Reading;
use crate::hostile::store::{Called, Handle, Store};
use crate::hostile::watch::doing;

impl Caller<'_> {
    pub(super) fn backup(&mut self, handle: &Handle) -> Result<()> {
        let dir = self.store.scratch.join(format!("backup-{}", self.number));
        let store = self.store;
        let reading = store.model.read();
        let detail = dir.display().to_string();
        let breaks_off = self.random.once_in(8);
        let aborted: &[&'static str] = if breaks_off { &["aborted"] } else { &[] };
        let called = store.call_with(handle, "backup", &detail, aborted, |engine| {
            engine.backup_with_progress(&dir, |_| {
                if breaks_off { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        })?;
        let Called::Done(_) = called else { return Ok(()) };
        verify_copy(store, &dir, &reading).context("a backup")?;
        let report = check(&Components::default(), &dir, CheckLevel::Tables, &mut |_| ControlFlow::Continue(()));
        if let Some(report) = store.allowed(report, "a check of a backup")? {
            ensure!(report.is_whole(), "a backup is damaged: {:?}", report.damage);
        }
        let mut records = 0;
        let dumped = dump(&Components::default(), &dir, &mut |_| {
            records += 1;
            ControlFlow::Continue(())
        });
        store.allowed(dumped, "a dump of a backup").map(drop)
    }

    pub(super) fn restore(&mut self, handle: &Handle) -> Result<()> {
        let backup = self.store.scratch.join(format!("backup-{}", self.number));
        let restored = self.store.scratch.join(format!("restored-{}", self.number));
        let store = self.store;
        let reading = store.model.read();
        let called = store.call(handle, "backup", "to restore", |engine| engine.backup_to(&backup))?;
        let Called::Done(_) = called else { return Ok(()) };
        {
            let _doing = doing("restore", "");
            restore(&Components::default(), &backup, &restored)?;
        }
        verify_copy(store, &restored, &reading).context("a restored store")?;
        Ok(std::fs::remove_dir_all(&restored)?)
    }

    pub(super) fn export(&mut self, handle: &Handle) -> Result<()> {
        let imported = self.store.scratch.join(format!("imported-{}", self.number));
        let store = self.store;
        let reading = store.model.read();
        let mut stream = Vec::new();
        let called = store.call(handle, "export", "", |engine| engine.export_snapshot(&mut stream))?;
        let Called::Done(_) = called else { return Ok(()) };
        {
            let _doing = doing("import", "");
            import_snapshot(&Components::default(), &mut &stream[..], &imported)?;
        }
        verify_copy(store, &imported, &reading).context("an imported store")?;
        Ok(std::fs::remove_dir_all(&imported)?)
    }

    pub(super) fn salvage(&mut self, handle: &Handle) -> Result<()> {
        let salvaged = self.store.scratch.join(format!("salvaged-{}", self.number));
        let backup = self.store.scratch.join(format!("backup-{}", self.number));
        let store = self.store;
        let reading = store.model.read();
        let called = store.call(handle, "backup", "to salvage", |engine| engine.backup_to(&backup))?;
        let Called::Done(_) = called else { return Ok(()) };
        let _doing = doing("salvage", "");
        salvage(&Components::default(), &backup, &salvaged, &mut |_| ControlFlow::Continue(()))?;
        verify_copy(store, &salvaged, &reading).context("a salvaged store")?;
        Ok(std::fs::remove_dir_all(&salvaged)?)
    }
}

/// Opens a copy of the store for reading, and compares it with the model.
fn verify_copy(store: &Store, dir: &std::path::Path, reading: &Reading<'_>) -> Result<()> {
    let Some(copy) = store.allowed(SingleNodeEngine::open_read_only(dir), "opening a copy")? else { return Ok(()) };
    store.verify(&copy, reading)?;
    let found = copy.range(..)?.collect_pairs(usize::MAX)?;
    let found: Vec<_> = found.into_iter().map(|(key, value)| (key, value.into_vec())).collect();
    check_all(store, &found, reading)
}
