//! Circular dependencies of the files of a crate.
//!
//! A file depends on another if it has a path to it: `crate::`, `super::`, `self::` or the name of
//! a child module. A path leads to the file that defines the item; re-exports are followed and are
//! not dependencies themselves. Calls of methods are not detected, because they need no path.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};

use super::source::{Crate, Module, ModulePath, Use, flatten, is_of_tests};

/// The circles of a crate: the files of each, in order.
pub(super) fn of(krate: &Crate) -> Vec<Vec<String>> {
    components(&arrows(krate))
}

type Arrows = BTreeMap<String, BTreeSet<String>>;

/// The files that each file depends on.
fn arrows(krate: &Crate) -> Arrows {
    let mut arrows = Arrows::new();
    for (at, module) in &krate.modules {
        let mut paths = Paths::default();
        module.items.iter().for_each(|item| paths.visit_item(item));
        let imports = module.uses.iter().filter(|found| !found.is_export).map(|found| found.path.clone());
        let targets: BTreeSet<String> = imports
            .chain(paths.0)
            .filter_map(|path| resolve(krate, at, &path, 0))
            .filter(|file| *file != module.file)
            .collect();
        arrows.entry(module.file.clone()).or_default().extend(targets);
    }
    arrows
}

/// The paths in the code of a module.
#[derive(Default)]
struct Paths(Vec<Vec<String>>);

impl<'ast> Visit<'ast> for Paths {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.0.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut uses = Vec::new();
        flatten(&item.tree, &mut Vec::new(), false, &mut uses);
        self.0.extend(uses.into_iter().map(|found| found.path));
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.0.extend(paths_in(&item.tokens.to_string()));
        visit::visit_macro(self, item);
    }

    /// `pub(crate)` and similar paths define visibility, not dependencies.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_of_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }
}

/// The paths with at least two names in the tokens of a macro call.
fn paths_in(tokens: &str) -> Vec<Vec<String>> {
    let joined = tokens.replace(" :: ", "::");
    let words = joined.split(|letter: char| !(letter.is_alphanumeric() || letter == '_' || letter == ':'));
    let paths = words.filter(|word| word.contains("::")).map(|word| word.split("::").map(str::to_owned).collect());
    paths.collect()
}

/// Maximum length of a chain of re-exports; a longer one is a cycle.
const MAX_DEPTH: usize = 16;

/// The file that defines the target of `path` in the module `at`, if it is in this crate.
fn resolve(krate: &Crate, at: &ModulePath, path: &[String], depth: usize) -> Option<String> {
    if depth > MAX_DEPTH {
        return None;
    }
    let mut module = at.clone();
    let mut rest = path;
    let mut is_rooted = false;
    while let Some((first, after)) = rest.split_first() {
        match first.as_str() {
            "crate" => module.clear(),
            "self" => {}
            "super" => drop(module.pop()),
            _ => break,
        }
        (is_rooted, rest) = (true, after);
    }
    let starts_at_child = rest.first().is_some_and(|first| krate.modules.contains_key(&child(&module, first)));
    if !is_rooted && !starts_at_child {
        // A name of this module or an imported one. Private imports are dependencies already.
        let first = rest.first()?;
        let import = krate.modules.get(&module)?.uses.iter().find(|found| found.name == *first && found.is_export)?;
        return follow(krate, &module, import, &rest[1..], depth);
    }
    while let Some((first, after)) = rest.split_first() {
        let next = child(&module, first);
        if !krate.modules.contains_key(&next) {
            break;
        }
        (module, rest) = (next, after);
    }
    let found = krate.modules.get(&module)?;
    let Some((first, after)) = rest.split_first() else { return Some(found.file.clone()) };
    if let Some(import) = found.uses.iter().find(|import| import.name == *first) {
        return follow(krate, &module, import, after, depth);
    }
    if defines(found, first) {
        return Some(found.file.clone());
    }
    let globs = found.uses.iter().filter(|import| import.name == "*");
    let through = globs.filter_map(|import| {
        let path = [&import.path[..], rest].concat();
        resolve(krate, &module, &path, depth + 1)
    });
    Some(through.into_iter().next().unwrap_or_else(|| found.file.clone()))
}

fn child(module: &ModulePath, name: &str) -> ModulePath {
    [&module[..], &[name.to_owned()]].concat()
}

/// The file of an imported name and the rest of its path.
fn follow(krate: &Crate, module: &ModulePath, import: &Use, after: &[String], depth: usize) -> Option<String> {
    let path = [&import.path[..], after].concat();
    resolve(krate, module, &path, depth + 1)
}

/// Whether a module has an item of this name.
fn defines(module: &Module, name: &str) -> bool {
    use syn::Item;
    module.items.iter().any(|item| match item {
        Item::Const(item) => item.ident == name,
        Item::Enum(item) => item.ident == name,
        Item::Fn(item) => item.sig.ident == name,
        Item::Static(item) => item.ident == name,
        Item::Struct(item) => item.ident == name,
        Item::Trait(item) => item.ident == name,
        Item::Type(item) => item.ident == name,
        Item::Union(item) => item.ident == name,
        Item::Macro(item) => item.ident.as_ref().is_some_and(|ident| ident == name),
        _ => false,
    })
}

/// The strongly connected components of more than one file.
fn components(arrows: &Arrows) -> Vec<Vec<String>> {
    let reach: BTreeMap<&String, BTreeSet<&String>> =
        arrows.keys().map(|from| (from, reachable(arrows, from))).collect();
    let mut done = BTreeSet::new();
    let mut found = Vec::new();
    for from in arrows.keys() {
        let Some(reached) = reach.get(from).filter(|reached| reached.contains(from) && !done.contains(from)) else {
            continue;
        };
        let both = reached.iter().copied().filter(|to| reach.get(to).is_some_and(|back| back.contains(from)));
        let files: Vec<String> = both.cloned().collect();
        done.extend(files.iter().cloned());
        found.push(files);
    }
    found
}

fn reachable<'a>(arrows: &'a Arrows, from: &String) -> BTreeSet<&'a String> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&String> = arrows.get(from).into_iter().flatten().collect();
    while let Some(file) = next.pop() {
        if reached.insert(file) {
            next.extend(arrows.get(file).into_iter().flatten());
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::structure::source::from_texts;

    #[track_caller]
    fn circles(files: &[(&str, &str)], expected: &[&[&str]]) {
        let found = of(&from_texts("kv", files));
        let expected: Vec<Vec<String>> =
            expected.iter().map(|files| files.iter().map(|file| (*file).to_owned()).collect()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn files_that_use_each_other_are_a_circle() {
        let a = "use crate::b::B; pub struct A;";
        circles(
            &[("lib.rs", "mod a; mod b;"), ("a.rs", a), ("b.rs", "pub struct B(crate::a::A);")],
            &[&["a.rs", "b.rs"]],
        );
        circles(&[("lib.rs", "mod a; mod b;"), ("a.rs", a), ("b.rs", "pub struct B;")], &[]);
        circles(&[("lib.rs", "mod a; use a::A;"), ("a.rs", "pub(crate) struct A;")], &[]);
    }

    #[test]
    fn circles_lead_through_several_files_and_re_exports() {
        let lib = "mod a; mod b; mod c; pub use c::C; pub use b::*;";
        let files = [
            ("lib.rs", lib),
            ("a.rs", "use crate::B;"),
            ("b.rs", "pub struct B; fn f() { crate::C }"),
            ("c.rs", "pub struct C; use super::a;"),
        ];
        circles(&files, &[&["a.rs", "b.rs", "c.rs"]]);
    }

    #[test]
    fn a_re_export_alone_makes_no_dependency() {
        let files = [
            ("lib.rs", "mod a; pub use a::A; pub const MAX: u8 = 1;"),
            ("a.rs", "pub(crate) struct A([u8; crate::MAX]);"),
        ];
        circles(&files, &[]);
        let files = [("lib.rs", "mod a; pub use a::A; pub const MAX: A = A;"), files[1]];
        circles(&files, &[&["a.rs", "lib.rs"]]);
    }

    #[test]
    fn children_that_use_their_parent_are_a_circle_with_it() {
        let files =
            [("lib.rs", "mod a;"), ("a.rs", "mod b; fn f() { b::g() }"), ("a/b.rs", "pub fn g() { super::f() }")];
        circles(&files, &[&["a.rs", "a/b.rs"]]);
    }

    #[test]
    fn tests_make_no_circle_and_macros_do() {
        let lib = ("lib.rs", "mod a; mod b;");
        let b = ("b.rs", "use crate::a::A; pub struct B;");
        circles(&[lib, ("a.rs", "pub struct A; #[cfg(test)] mod tests { use crate::b::B; }"), b], &[]);
        let a = ("a.rs", "pub struct A; fn f() { assert!(crate::b::B == 1) }");
        circles(&[lib, a, b], &[&["a.rs", "b.rs"]]);
    }
}
