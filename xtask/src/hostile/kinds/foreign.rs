//! Foreign files and directories in every place, with names like the store's: the store reads,
//! changes and removes none of them, and they do not make it wait, crash or lose anything.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use hightower_engine::{Components, Result as EngineResult, SingleNodeEngine, import_snapshot, restore, salvage};

use crate::hostile::operations::Mix;
use crate::hostile::random::Random;
use crate::hostile::round::Round;
use crate::hostile::store::Store;
use crate::hostile::storm::{config, model, run as storm};
use crate::hostile::watch::{count_error, doing};

const MIX: Mix = &[
    ("put", 100),
    ("delete", 20),
    ("batch", 20),
    ("get", 40),
    ("range", 4),
    ("checkpoint", 5),
    ("compact", 10),
    ("close", 4),
    ("drop", 2),
];

/// Names that do not belong to the store, although they look like its names.
const NAMES: &[&str] = &[
    "holiday.seg",
    "tyre.spare",
    "0000.seg.bak",
    "0000000001.seg.bak",
    "1.seg",
    "00000000001.seg",
    "+000000001.seg",
    "0000000001.SEG",
    " 0000000001.seg",
    "0000000001.spare~",
    "MANIFEST.bak",
    "MANIFEST.tmp.old",
    "LOCK.old",
    "checkpoint.txt",
    "x.tbl",
    "1.tbl",
    "0000000001.tbl.old",
    "0000000001.tbl.spill",
    "0000000001.TBL",
    "notes.tmp",
    ".hidden",
    "ünïcode.seg",
];

/// The known properties of a foreign file: kind, inode, mode, time of change, and content or
/// target.
type Seen = (String, u64, u32, i64, Vec<u8>);

fn look(path: &Path) -> Result<Seen> {
    let metadata = fs::symlink_metadata(path).with_context(|| format!("{} is gone", path.display()))?;
    let kind = metadata.file_type();
    let (name, content) = if kind.is_symlink() {
        ("link", fs::read_link(path)?.into_os_string().into_encoded_bytes())
    } else if kind.is_fifo() {
        ("fifo", Vec::new())
    } else if kind.is_dir() {
        let mut names: Vec<_> =
            fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().into_encoded_bytes())).collect::<Result<_>>()?;
        names.sort();
        ("directory", names.join(&b'/'))
    } else {
        ("file", fs::read(path)?)
    };
    // The store's own directories among them change with time.
    let changed = if kind.is_dir() { 0 } else { metadata.ctime() };
    Ok((name.to_owned(), metadata.ino(), metadata.mode(), changed, content))
}

/// All planted files, with their properties at that time.
#[derive(Default)]
struct Planted(BTreeMap<PathBuf, Seen>);

impl Planted {
    fn plant(&mut self, dir: &Path, random: &mut Random, names: &[&str]) -> Result<()> {
        fs::create_dir_all(dir)?;
        for name in names {
            let path = dir.join(name);
            if fs::symlink_metadata(&path).is_ok() {
                continue;
            }
            match random.below(8) {
                0 => {
                    fs::create_dir(&path)?;
                    fs::write(path.join("inside"), "of somebody else")?;
                    self.0.insert(path.join("inside"), look(&path.join("inside"))?);
                }
                1 => fs::create_dir(&path)?,
                2 => std::os::unix::fs::symlink("/dev/null", &path)?,
                3 => std::os::unix::fs::symlink("nowhere", &path)?,
                4 => {
                    let made = std::process::Command::new("mkfifo").arg(&path).status()?;
                    ensure!(made.success(), "mkfifo {}", path.display());
                }
                _ => fs::write(&path, format!("of somebody else: {name}"))?,
            }
            if random.once_in(4) && !fs::symlink_metadata(&path)?.is_symlink() {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o400))?;
            }
            self.0.insert(path.clone(), look(&path)?);
        }
        Ok(())
    }

    fn check(&self, after: &str) -> Result<()> {
        for (path, before) in &self.0 {
            let now = look(path).with_context(|| format!("after {after}"))?;
            let tell = |seen: &Seen| {
                format!("{} {} {:o} {} {:?}", seen.0, seen.1, seen.2, seen.3, String::from_utf8_lossy(&seen.4))
            };
            ensure!(
                now == *before,
                "after {after}: {} of somebody else was {}, and is {}",
                path.display(),
                tell(before),
                tell(&now)
            );
        }
        Ok(())
    }
}

/// A call with a target that is not empty may be refused, for these reasons.
const REFUSED: &[&str] = &["conflict", "io", "not_found", "locked"];

fn may_be_refused<T>(result: EngineResult<T>, what: &str) -> Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) => {
            ensure!(REFUSED.contains(&error.code()), "{what} fails with {:?}: {error}", error.code());
            count_error(error.code());
            Ok(false)
        }
    }
}

pub(super) fn run(round: &Round) -> Result<()> {
    let mut random = Random::new(round.plan.seed);
    let mut planted = Planted::default();
    let dir = round.store_dir();
    let is_before = random.once_in(2);
    if is_before {
        planted.plant(&dir, &mut random, NAMES)?;
    }
    let mut config = config(&mut random, &dir);
    config.max_segment_size = random.pick(&[4 << 10, 16 << 10]);
    let store = Store::open(config, Components::default(), &round.scratch(), model(600), &round.plan)?;
    planted.check("open")?;
    planted.plant(&dir, &mut random, NAMES)?;
    // Beside the store, where copies are staged.
    planted.plant(&round.dir, &mut random, &["store.unfinished", "store.tmp", "store.bak"])?;
    // Directories with names that the store would use: it uses other names, or reports the name in
    // its way.
    let takes_names = random.once_in(3);
    if takes_names {
        let ahead: Vec<String> = (20..40).map(|id| format!("{id:010}.{}", random.pick(&["seg", "spare"]))).collect();
        for name in &ahead {
            fs::create_dir(dir.join(name))?;
            planted.0.insert(dir.join(name), look(&dir.join(name))?);
        }
        store.allow(&["io", "conflict"]);
    }
    let mut plan = round.plan.clone();
    if takes_names {
        // It may or may not be possible to open it then.
        plan.without.extend(["close", "drop"].map(str::to_owned));
    }
    storm(&store, &plan, &mut random, MIX)?;
    planted.check("a storm")?;
    for _ in 0..6 {
        copies(round, &store, &mut random, &mut planted)?;
    }
    if takes_names {
        let Some(handle) = store.handle() else { return planted.check("all") };
        store.verify(&handle.engine, &store.model.read())?;
        return planted.check("all");
    }
    store.finish(1)?;
    planted.check("all")
}

/// Backups, restores, salvages and imports into places with foreign files.
fn copies(round: &Round, store: &Store, random: &mut Random, planted: &mut Planted) -> Result<()> {
    let Some(handle) = store.handle() else { return Ok(()) };
    let engine = &handle.engine;
    let real = Components::default();
    let number = random.next() >> 40;
    let (backup, target) = (round.dir.join(format!("backup-{number}")), round.dir.join(format!("target-{number}")));
    let _doing = doing("copies", "");
    let reading = store.model.read();
    if !may_be_refused(engine.backup_to(&backup), "a backup")? {
        return Ok(());
    }
    let place = random.pick(&["backup", "target", "unfinished", "link", "file", "source"]);
    let told = format!("copies with foreign things in the {place}");
    let unfinished = round.dir.join(format!("target-{number}.unfinished"));
    let mut source = backup.clone();
    let take = usize::try_from(1 + random.below(NAMES.len() as u64 - 1)).unwrap_or(1);
    match place {
        "backup" => planted.plant(&backup, random, &NAMES[..take])?,
        "target" => planted.plant(&target, random, &NAMES[..take])?,
        "unfinished" => planted.plant(&unfinished, random, &NAMES[..take])?,
        "link" => {
            let behind = round.dir.join(format!("behind-{number}"));
            fs::create_dir(&behind)?;
            std::os::unix::fs::symlink(&behind, &target)?;
        }
        "file" => {
            fs::write(&target, "of somebody else")?;
            planted.0.insert(target.clone(), look(&target)?);
        }
        // The source has the name that the staged copy would get.
        _ => {
            fs::rename(&backup, &unfinished)?;
            source.clone_from(&unfinished);
        }
    }
    let what = random.pick(&["backup", "restore", "salvage", "import"]);
    let is_done = match what {
        "backup" => may_be_refused(engine.backup_to(if place == "backup" { &backup } else { &target }), &told)?,
        "restore" => may_be_refused(restore(&real, &source, &target), &told)?,
        "salvage" => {
            may_be_refused(salvage(&real, &source, &target, &mut |_| std::ops::ControlFlow::Continue(())), &told)?
        }
        _ => {
            let mut stream = Vec::new();
            engine.export_snapshot(&mut stream)?;
            may_be_refused(import_snapshot(&real, &mut &stream[..], &target), &told)?
        }
    };
    planted.check(&format!("a {what}, {told}"))?;
    let copy = if what == "backup" && place == "backup" { &backup } else { &target };
    if is_done {
        let copy =
            SingleNodeEngine::open_read_only(copy).with_context(|| format!("open what a {what} made, {told}"))?;
        store.verify(&copy, &reading).with_context(|| format!("what a {what} made, {told}"))?;
    }
    // The source of the copy is unchanged.
    let copy =
        SingleNodeEngine::open_read_only(&source).with_context(|| format!("open the source of a {what}, {told}"))?;
    store.verify(&copy, &reading).with_context(|| format!("the source of a {what}, {told}"))
}
