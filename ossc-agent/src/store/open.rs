//! `Store::open`: from a listing to files on disk, all or nothing.
//!
//! Order matters. Names are checked before anything is touched; what an earlier run left visible and
//! incomplete is hidden next, whatever else may fail; then obstacles and space are checked; only then
//! is anything made or removed, and taken back if a later step fails. Files are hidden here: the gate
//! marks them, and `Store::publish` gives them their names.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::stat::{Mode, fchmod};

use super::Store;
use super::config::Config;
use super::data_file::{File, Parts};
use super::error::Error;
use super::inherited::Inherited;
use super::model_dir::{ModelDir, owner_mark};
use super::names::{self, Name, STATE_DIR};
use super::place::Directories;
use super::ready_file::Record;
use super::recover::{self, Plan};
use super::report::Report;
use super::space::Demand;
use super::state_dir::{self, StateDir};
use super::undo::Undo;
use crate::base::{BlockSize, FileId, Layout, Object};
use crate::sys::file::{self, Facts, Space};

/// What every reader may do with a model file.
const DATA_MODE: u32 = 0o444;

/// Largest object that OSS stores, 48.8 TiB (its limits page); more is not a listing of OSS, and the block
/// tables of a made-up size must not eat the memory.
const OBJECT_MAX: u64 = 50_000 << 30;

/// One object on its way to a `File`.
struct Item {
    name: Name,
    object: Object,
    layout: Layout,
    plan: Plan,
}

/// Lays out or resumes the files of `objects`, in the boot `boot_id`.
pub(super) fn open(
    config: &Config,
    objects: Vec<Object>,
    inherited: Vec<OwnedFd>,
    boot_id: &str,
) -> Result<Store, Error> {
    let base = std::path::absolute(&config.model_dir).map_err(Error::io("find", &config.model_dir))?;
    let tree = names::check(objects, base.as_os_str().len())?;
    let total = tree.files.iter().fold(0u64, |sum, (_, object)| sum.saturating_add(object.size));
    let block_size = config.block_size.unwrap_or_else(|| BlockSize::for_model(total));

    let mut undo = Undo::default();
    let model = ModelDir::open(&config.model_dir, &mut undo)?;
    let era = era(&model, boot_id)?;
    let state = StateDir::open(&model, state_dir::LOCK_PATIENCE, &mut undo)?;
    let mut records = state.records(model.path_len())?;
    for (path, reason) in &records.damaged {
        tracing::warn!(?path, reason, "ready file ignored; its file counts as not fetched");
    }
    let mut inherited = Inherited::new(inherited, &model)?;
    let directories = Arc::new(Directories { model, state });
    let listed: HashSet<&Name> = tree.files.iter().map(|(name, _)| name).collect();
    for record in records.by_hash.values().filter(|record| !listed.contains(&record.name)) {
        recover::hide_incomplete(&directories, &record.name, Some(record), &era)?;
    }
    let mut items = Vec::with_capacity(tree.files.len());
    for (name, object) in tree.files {
        let record = records.by_hash.remove(&name.hash());
        let wanted = recover::Wanted { name: &name, object: &object, block_size, era: &era };
        let plan = recover::plan(&directories, &wanted, record, &inherited)?;
        // A complete file keeps the blocks it was fetched in.
        let block_size = match &plan {
            Plan::Keep { record, .. } => record.layout.block_size(),
            _ => block_size,
        };
        let layout = Layout::new(object.size, block_size)
            .filter(|layout| layout.size() <= OBJECT_MAX)
            .ok_or_else(|| Error::TooLarge { key: object.key.clone(), size: object.size })?;
        items.push(Item { name, object, layout, plan });
    }
    let directory_names: Vec<Name> = tree.directories.into_iter().map(|(_, name)| name).collect();
    for name in &directory_names {
        if let Some(entry) = directories.model.find(name)?.filter(|entry| !entry.facts.is_dir) {
            return Err(Error::InTheWay { path: directories.model.path_of(name), what: entry.kind() });
        }
    }
    let stale = stale_data(&directories, &items)?;
    check_space(&directories, &items, &directory_names, &stale)?;

    for (hash, _) in &stale {
        directories.state.remove_data(hash)?;
    }
    for name in &directory_names {
        directories.model.make_directories(name, true, &mut undo)?;
    }
    let mut report = Report::default();
    let mut files = Vec::with_capacity(items.len());
    for (item, id) in items.into_iter().zip(0..) {
        report.count(&item.object, &item.plan);
        let place = (&directories, &era);
        files.push(Arc::new(make_file(item, FileId(id), place, &mut inherited, &mut undo)?));
    }
    let (kept, worthless) = recover::gone(&directories, records.by_hash, &era);
    undo.keep();

    // From here on the layout stands; what follows only tidies up what is no longer listed.
    for mut record in kept {
        report.gone.push(record.object.name.clone());
        if !record.gone {
            record.gone = true;
            directories.state.write_record(&record, false)?;
        }
    }
    report.gone.sort();
    for record in worthless {
        directories.state.remove_record(&record.name.hash())?;
    }
    let current: HashSet<String> = files.iter().map(|file| file.hash()).collect();
    for hash in records.damaged.iter().filter_map(|(path, _)| path.file_name()?.to_str()) {
        if !current.contains(hash) {
            directories.state.remove_record(hash)?;
        }
    }
    Ok(Store { files, report, directories })
}

/// Takes every visible file of ours that is not complete out of sight, as an agent does first that takes up a
/// model directory. For a keeper whose agent died, and for an agent that has yet to ask OSS; fails when an agent has
/// the lock, or one that has ended has it for longer than `patience`. Where there is no state directory (any more), there is
/// no file of ours either.
pub fn hide_incomplete(model_dir: &Path, patience: Duration) -> Result<(), Error> {
    let boot_id = file::boot_id().map_err(Error::io("read", Path::new(file::BOOT_ID)))?;
    let mut undo = Undo::default();
    if !model_dir.join(STATE_DIR).exists() {
        return Ok(());
    }
    let model = ModelDir::open_existing(model_dir)?;
    let era = era(&model, &boot_id)?;
    let state = StateDir::open(&model, patience, &mut undo)?;
    undo.keep();
    let records = state.records(model.path_len())?;
    let directories = Directories { model, state };
    let hide = |record: &Record| recover::hide_incomplete(&directories, &record.name, Some(record), &era);
    // All of them, whatever happens to one.
    records.by_hash.values().map(hide).fold(Ok(()), Result::and)
}

/// The boot and the mount in which what is in the page cache stays there.
pub(super) fn era(model: &ModelDir, boot_id: &str) -> Result<Arc<str>, Error> {
    let device = file::device_instance(model.root()).map_err(Error::io("examine", model.path()))?;
    Ok(Arc::from(format!("{boot_id} {device}")))
}

/// The objects that the ready files of a model directory describe, in name order; those no longer listed
/// at the last start are left out. Fails when a ready file is damaged, because a model with a file missing
/// is worse than none. For starting without OSS; the caller then requires each file to be complete.
pub fn recorded(model_dir: &Path) -> Result<Vec<Object>, Error> {
    let records = state_dir::peek(&ModelDir::open_existing(model_dir)?)?;
    if let Some((path, _)) = records.damaged.into_iter().next() {
        return Err(Error::Damaged { path });
    }
    let current = records.by_hash.into_values().filter(|record| !record.gone);
    let mut objects: Vec<Object> = current.map(|record| record.object).collect();
    objects.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(objects)
}

/// Hidden data files that no plan uses.
fn stale_data(directories: &Directories, items: &[Item]) -> Result<Vec<(String, u64)>, Error> {
    let used =
        |plan: &Plan| matches!(plan, Plan::Keep { visible: false, .. } | Plan::Resume { visible: false, .. });
    let wanted: HashSet<String> = items.iter().filter(|i| used(&i.plan)).map(|i| i.name.hash()).collect();
    let mut data = directories.state.list_data()?;
    data.retain(|(hash, _)| !wanted.contains(hash));
    Ok(data)
}

fn check_space(
    directories: &Directories,
    items: &[Item],
    directory_names: &[Name],
    stale: &[(String, u64)],
) -> Result<(), Error> {
    let mut demand = Demand::default();
    for item in items {
        match item.plan {
            Plan::New { .. } => demand.add_file(item.object.size),
            Plan::Resume { missing, .. } => demand.add_missing(missing),
            Plan::Keep { .. } => {}
        }
    }
    let above: HashSet<&str> = items.iter().flat_map(|item| item.name.ancestors()).collect();
    (0..above.len() + directory_names.len()).for_each(|_| demand.add_directory());
    stale.iter().for_each(|(_, bytes)| demand.reclaim(*bytes));
    let model = &directories.model;
    let space = Space::of(&**model.root()).map_err(Error::io("examine", model.path()))?;
    demand.check(space, model.path())
}

/// Carries out the plan for one object.
fn make_file(
    item: Item,
    id: FileId,
    (directories, era): (&Arc<Directories>, &Arc<str>),
    inherited: &mut Inherited,
    undo: &mut Undo,
) -> Result<File, Error> {
    let Item { name, object, layout, plan } = item;
    let (handle, visible, replaces) = match &plan {
        Plan::Keep { record, visible } | Plan::Resume { record, visible, .. } => {
            let handle = match inherited.take(record.identity.ino) {
                Some(handle) => handle,
                None if *visible => directories.model.open_file(&name)?,
                None => directories.state.open_data(&name)?,
            };
            (handle, *visible, false)
        }
        Plan::New { replaces, .. } => (create(directories, &name, object.size, undo)?, false, *replaces),
    };
    if !visible {
        directories.model.make_directories(&name, false, undo)?;
    }
    let path = directories.model.path_of(&name);
    let facts = Facts::of(&handle).map_err(Error::io("examine", &path))?;
    if facts.mode != DATA_MODE {
        // The umask, or somebody, took a bit away.
        fchmod(&handle, Mode::from_bits_truncate(DATA_MODE)).map_err(Error::io("set the mode of", &path))?;
    }
    let (directories, era) = (Arc::clone(directories), Arc::clone(era));
    let file = File::new(Parts {
        id,
        object,
        name: name.clone(),
        layout,
        handle,
        facts,
        visible,
        replaces,
        directories: Arc::clone(&directories),
        era,
    });
    match plan {
        Plan::Keep { record, .. } | Plan::Resume { record, .. } => file.restore(&record)?,
        Plan::New { old, .. } => {
            undo.push(move || put_back(&directories, &name, old.as_ref()));
            file.persist()?;
            if layout.block_count() == 0 {
                file.seal()?;
            }
        }
    }
    Ok(file)
}

/// Creates the hidden data file of a new object: full size, marked as ours, with space reserved on disks.
fn create(
    directories: &Directories,
    name: &Name,
    size: u64,
    undo: &mut Undo,
) -> Result<std::fs::File, Error> {
    let handle = directories.state.create_data(name, undo)?;
    let path = directories.model.path_of(name);
    let failed = |action| Error::io(action, &path);
    let facts = Facts::of(&handle).map_err(failed("examine"))?;
    file::set_owner_mark(&handle, &owner_mark(name, facts.ino))
        .map_err(failed("set the attribute trusted.ossc (needs CAP_SYS_ADMIN) on"))?;
    handle.set_len(size).map_err(failed("set the size of"))?;
    if size > 0 && directories.model.file_system().is_disk() {
        file::preallocate(&handle, size).map_err(failed("reserve space for"))?;
    }
    Ok(handle)
}

/// Undoes the new ready file of `name`.
fn put_back(directories: &Directories, name: &Name, old: Option<&Record>) -> std::io::Result<()> {
    match old {
        Some(old) => directories.state.write_record(old, false),
        None => directories.state.remove_record(&name.hash()),
    }
    .map_err(std::io::Error::other)
}
