//! Type names that stand in more than one file.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};

use super::source::{Crate, is_of_tests};

/// Names that each verb of a program has for itself. The module is the name there, as in
/// `verbs::get::Args` or `counts::Options`, and clap reads better so.
const OF_EACH_VERB: [(&str, &[&str]); 2] = [("cli", &["Args", "Answer", "Verb"]), ("xtask", &["Options"])];

/// The names of types and traits that stand in two files or more, and those files.
pub(super) fn twice(crates: &[Crate]) -> BTreeMap<String, Vec<String>> {
    let mut places: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for krate in crates {
        for module in krate.modules.values() {
            let mut found = Names::default();
            module.items.iter().for_each(|item| found.visit_item(item));
            for name in found.0 {
                let program = krate.name.split('/').next().unwrap_or_default();
                let is_of_verb =
                    OF_EACH_VERB.iter().any(|(of, names)| *of == program && names.contains(&name.as_str()));
                if !is_of_verb {
                    places.entry(name).or_default().insert(format!("{}/{}", krate.name, module.file));
                }
            }
        }
    }
    places.retain(|_, files| files.len() > 1);
    places.into_iter().map(|(name, files)| (name, files.into_iter().collect())).collect()
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
    fn two_crates_share_no_name_except_the_verbs_own() {
        let cli = [("lib.rs", "mod a; mod b;"), ("a.rs", "struct Args; struct Batch;"), ("b.rs", "struct Args;")];
        let kv = [("lib.rs", "struct Batch;")];
        let found = twice(&[from_texts("cli", &cli), from_texts("kv", &kv)]);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["Batch"]);
    }
}
