//! Duplicate type names.
//!
//! A library's type has a name that no other library has: a name then means one thing in all
//! documents, and a search finds one type. Two kinds of names are exempt:
//!
//! * [`OF_EACH_CRATE`]: the names that Rust crates have by convention. Each library may have each
//!   of them once; elsewhere they are written with the crate's name, as in `auth::Error`.
//! * The types of programs and benchmarks, which no other crate can use. Their names are unique
//!   within the program, except the types that each verb has for itself ([`OF_EACH_VERB`]).

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};

use super::source::{Crate, is_of_tests};

/// Names that each library may have once.
const OF_EACH_CRATE: [&str; 3] = ["Error", "ErrorKind", "Result"];

/// Names that each verb of a program may have. The module distinguishes them, as in
/// `verbs::get::Args` or `counts::Options`, which is the convention with clap.
const OF_EACH_VERB: [(&str, &[&str]); 2] = [("cli", &["Args", "Answer", "Verb"]), ("xtask", &["Options"])];

/// The names of types and traits in at least two files, with these files. A name in a program
/// begins with the program's name.
pub(super) fn twice(crates: &[Crate]) -> BTreeMap<String, Vec<String>> {
    let mut places: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for krate in crates {
        for module in krate.modules.values() {
            let mut found = Names::default();
            module.items.iter().for_each(|item| found.visit_item(item));
            for name in found.0.iter().filter(|name| !is_of_verb(krate, name)) {
                let file = format!("{}/{}", krate.name, module.file);
                places.entry(subject(krate, name)).or_default().insert(file);
            }
        }
    }
    places.retain(|_, files| files.len() > 1);
    places.into_iter().map(|(name, files)| (name, files.into_iter().collect())).collect()
}

fn is_of_verb(krate: &Crate, name: &str) -> bool {
    let program = krate.name.split('/').next().unwrap_or_default();
    OF_EACH_VERB.iter().any(|(of, names)| *of == program && names.contains(&name))
}

/// The name, with the crate's name in front if it must be unique only within the crate.
fn subject(krate: &Crate, name: &str) -> String {
    let is_program = krate.name.ends_with("/main");
    if is_program || OF_EACH_CRATE.contains(&name) { format!("{}: {name}", krate.name) } else { name.to_owned() }
}

#[derive(Default)]
struct Names(Vec<String>);

impl<'ast> Visit<'ast> for Names {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.0.push(item.ident.to_string());
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.0.push(item.ident.to_string());
    }

    fn visit_item_union(&mut self, item: &'ast syn::ItemUnion) {
        self.0.push(item.ident.to_string());
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.0.push(item.ident.to_string());
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.0.push(item.ident.to_string());
        visit::visit_item_trait(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_of_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_of_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::structure::source::from_texts;

    #[test]
    fn a_type_name_that_two_files_have_is_found_and_tests_are_left_out() {
        let log = [
            ("lib.rs", "mod a; mod b; struct Record; fn f() { struct Inner; }"),
            ("a.rs", "pub enum Record {} type Inner = u8; #[cfg(test)] mod tests { struct Other; }"),
            ("b.rs", "#[cfg(all(test, not(loom)))] struct Own; #[cfg(doctest)] struct Readme;"),
        ];
        let kv =
            [("lib.rs", "trait Own {} struct Other; struct Readme; struct Args; mod a { struct Mine; struct Mine2; }")];
        let crates = [from_texts("log", &log), from_texts("kv", &kv)];
        let expected = [("Inner", vec!["log/a.rs", "log/lib.rs"]), ("Record", vec!["log/a.rs", "log/lib.rs"])];
        let expected =
            expected.map(|(name, files)| (name.to_owned(), files.into_iter().map(str::to_owned).collect::<Vec<_>>()));
        assert_eq!(twice(&crates), BTreeMap::from(expected));
    }

    #[test]
    fn libraries_share_no_name_except_the_conventional_ones() {
        let log =
            [("lib.rs", "mod error; struct Batch; struct Args;"), ("error.rs", "enum Error {} type Result = u8;")];
        let kv = [("lib.rs", "mod a; struct Batch; enum Error {} struct Args;"), ("a.rs", "enum Error {}")];
        let found = twice(&[from_texts("log", &log), from_texts("kv", &kv)]);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["Args", "Batch", "kv: Error"]);
    }

    #[test]
    fn a_program_shares_names_with_other_crates_and_its_verbs_share_theirs() {
        let cli = [("main.rs", "mod a; mod b;"), ("a.rs", "struct Args; struct Batch;"), ("b.rs", "struct Args;")];
        let peers = [("main.rs", "mod a; struct Batch; struct Row;"), ("a.rs", "struct Row;")];
        let kv = [("lib.rs", "struct Batch;")];
        let crates = [from_texts("cli/main", &cli), from_texts("peers/main", &peers), from_texts("kv", &kv)];
        assert_eq!(twice(&crates).keys().collect::<Vec<_>>(), ["peers/main: Row"]);
    }
}
