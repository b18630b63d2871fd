//! The workspace's crates as syntax trees: modules, their files and their items.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use syn::{Attribute, Item, UseTree, Visibility};

/// The folders of the workspace's crates.
const FOLDERS: [&str; 2] = ["crates", "benches"];

/// One crate: a library or a program.
pub(super) struct Crate {
    /// The folder, and the root's file unless that is `lib.rs`.
    pub(super) name: String,
    pub(super) modules: BTreeMap<ModulePath, Module>,
}

/// The names from the crate's root to a module; empty for the root.
pub(super) type ModulePath = Vec<String>;

pub(super) struct Module {
    /// Its file, relative to the folder `src`.
    pub(super) file: String,
    /// The items outside of tests.
    pub(super) items: Vec<Item>,
    pub(super) uses: Vec<Use>,
}

/// A name that a module imports.
pub(super) struct Use {
    /// The local name; `*` for all.
    pub(super) name: String,
    pub(super) path: Vec<String>,
    /// Whether it is a re-export.
    pub(super) is_export: bool,
}

/// All crates of the workspace at `root`.
pub(super) fn crates(root: &Path) -> Result<Vec<Crate>> {
    let mut folders = vec![root.join("xtask")];
    for folder in FOLDERS {
        let path = root.join(folder);
        for entry in fs::read_dir(&path).with_context(|| format!("list {}", path.display()))? {
            folders.push(entry?.path());
        }
    }
    folders.sort();
    let mut crates = Vec::new();
    for folder in folders {
        for main in ["lib.rs", "main.rs"] {
            let path = folder.join("src").join(main);
            if !path.is_file() {
                continue;
            }
            let name = folder.file_name().and_then(|name| name.to_str()).context("a folder without a name")?;
            let name = if main == "lib.rs" { name.to_owned() } else { format!("{name}/main") };
            let mut read = |path: &Path| fs::read_to_string(folder.join("src").join(path)).ok();
            crates.push(read_crate(name, main, &mut read)?);
        }
    }
    Ok(crates)
}

/// The crate whose root is `main`; `read` yields the text of a file in `src`.
pub(super) fn read_crate(name: String, main: &str, read: &mut dyn FnMut(&Path) -> Option<String>) -> Result<Crate> {
    let mut modules = BTreeMap::new();
    let text = read(Path::new(main)).with_context(|| format!("{name}: {main} is missing"))?;
    let items = items_of(&text, &name, main)?;
    add(&mut modules, &name, Vec::new(), FilePlace { file: main.to_owned(), children: PathBuf::new() }, items, read)?;
    Ok(Crate { name, modules })
}

/// The file of a module, and the folder of its children's files.
struct FilePlace {
    file: String,
    children: PathBuf,
}

fn items_of(text: &str, name: &str, file: &str) -> Result<Vec<Item>> {
    Ok(syn::parse_file(text).with_context(|| format!("read {file} of {name}"))?.items)
}

fn add(
    modules: &mut BTreeMap<ModulePath, Module>,
    name: &str,
    path: ModulePath,
    place: FilePlace,
    items: Vec<Item>,
    read: &mut dyn FnMut(&Path) -> Option<String>,
) -> Result<()> {
    let (mut kept, mut uses) = (Vec::new(), Vec::new());
    for item in items {
        match item {
            Item::Mod(module) if !is_of_tests(&module.attrs) => {
                let child = module.ident.to_string();
                let child_path = [&path[..], std::slice::from_ref(&child)].concat();
                if let Some((_, items)) = module.content {
                    let place = FilePlace { file: place.file.clone(), children: place.children.join(&child) };
                    add(modules, name, child_path, place, items, read)?;
                    continue;
                }
                let named = file_of(&module.attrs).map(|file| Path::new(&place.file).with_file_name(file));
                let beside = place.children.join(format!("{child}.rs"));
                let inside = place.children.join(&child).join("mod.rs");
                let (file, text) = named
                    .into_iter()
                    .chain([beside, inside])
                    .find_map(|file| read(&file).map(|text| (file, text)))
                    .with_context(|| format!("{name}: no file of the module {child}"))?;
                let file = file.to_string_lossy().into_owned();
                let items = items_of(&text, name, &file)?;
                let place = FilePlace { file, children: place.children.join(&child) };
                add(modules, name, child_path, place, items, read)?;
            }
            Item::Use(found) if !is_of_tests(&found.attrs) => {
                let is_export = !matches!(found.vis, Visibility::Inherited);
                flatten(&found.tree, &mut Vec::new(), is_export, &mut uses);
            }
            Item::Mod(_) | Item::Use(_) => {}
            item if !attributes(&item).is_some_and(is_of_tests) => kept.push(item),
            _ => {}
        }
    }
    let mut path = path;
    while modules.contains_key(&path) {
        // The same module under another `cfg`. Its own paths count as dependencies; paths of other
        // files lead to the first form.
        path.push("other form".to_owned());
    }
    modules.insert(path, Module { file: place.file, items: kept, uses });
    Ok(())
}

/// The file that a `path` attribute names.
fn file_of(attributes: &[Attribute]) -> Option<String> {
    let value = attributes.iter().find_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("path") => Some(&pair.value),
        _ => None,
    })?;
    let syn::Expr::Lit(literal) = value else { return None };
    let syn::Lit::Str(file) = &literal.lit else { return None };
    Some(file.value())
}

fn attributes(item: &Item) -> Option<&[Attribute]> {
    Some(match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        _ => return None,
    })
}

/// Whether an item is compiled only for tests: `cfg(test)`, `cfg(doctest)`, `cfg(loom)`,
/// `cfg(shuttle)`, or one of them in an `all`. The last two replace types of other crates by types
/// with the same names.
pub(super) fn is_of_tests(attributes: &[Attribute]) -> bool {
    let conditions = attributes.iter().filter(|attribute| attribute.path().is_ident("cfg"));
    conditions.filter_map(|attribute| attribute.parse_args::<syn::Meta>().ok()).any(|condition| needs_test(&condition))
}

fn needs_test(condition: &syn::Meta) -> bool {
    match condition {
        syn::Meta::Path(path) => ["test", "doctest", "loom", "shuttle"].iter().any(|name| path.is_ident(name)),
        syn::Meta::List(list) if list.path.is_ident("all") => {
            let parser = syn::punctuated::Punctuated::<syn::Meta, syn::Token![,]>::parse_terminated;
            list.parse_args_with(parser).is_ok_and(|all| all.iter().any(needs_test))
        }
        _ => false,
    }
}

/// Adds every name that a `use` imports.
pub(super) fn flatten(tree: &UseTree, prefix: &mut Vec<String>, is_export: bool, uses: &mut Vec<Use>) {
    let mut add = |name: String, path: Vec<String>| uses.push(Use { name, path, is_export });
    match tree {
        UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            flatten(&path.tree, prefix, is_export, uses);
            prefix.pop();
        }
        UseTree::Name(name) if name.ident == "self" => {
            add(prefix.last().cloned().unwrap_or_default(), prefix.clone());
        }
        UseTree::Name(name) => {
            add(name.ident.to_string(), [&prefix[..], &[name.ident.to_string()]].concat());
        }
        UseTree::Rename(rename) => {
            add(rename.rename.to_string(), [&prefix[..], &[rename.ident.to_string()]].concat());
        }
        UseTree::Glob(_) => add("*".to_owned(), prefix.clone()),
        UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, prefix, is_export, uses);
            }
        }
    }
}

#[cfg(test)]
pub(super) fn from_texts(name: &str, files: &[(&str, &str)]) -> Crate {
    let mut read = |path: &Path| {
        let found = files.iter().find(|(file, _)| Path::new(file) == path);
        found.map(|(_, text)| (*text).to_owned())
    };
    read_crate(name.to_owned(), files[0].0, &mut read).unwrap()
}
