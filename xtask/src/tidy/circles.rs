//! Finds circles of files that import each other.
//!
//! The files of a crate are its rooms. An arrow runs from a file to each file
//! whose items it names by a path (`use crate::a::b`, `super::c::d()`). Arrows
//! from a file to its own ancestors are left out: a module and the modules
//! inside it are one thing. What remains must have no circle.
//!
//! Tests are left out, and so are paths inside macro calls, which are text
//! until the macro has run. Re-exports are not followed: an item that a parent
//! module re-exports belongs to the parent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// The path of a module in its crate; the root is empty.
type ModulePath = Vec<String>;

/// A source file of a crate with its text.
pub(crate) struct SourceFile {
    /// The path in the repository.
    pub(crate) path: PathBuf,
    /// The content.
    pub(crate) text: String,
}

/// Returns one line for each circle among the files of a crate; `src` is its
/// source directory. Files that do not parse are left to the compiler.
pub(crate) fn find(src: &Path, files: &[SourceFile]) -> Vec<String> {
    let rooms: BTreeMap<ModulePath, &SourceFile> =
        files.iter().filter_map(|file| Some((module_of(src, &file.path)?, file))).collect();
    let mut arrows: BTreeMap<&ModulePath, BTreeSet<&ModulePath>> = BTreeMap::new();
    for (module, file) in &rooms {
        let Ok(syntax) = syn::parse_file(&file.text) else { continue };
        let mut paths = Paths { module: module.clone(), found: Vec::new() };
        paths.visit_file(&syntax);
        for path in paths.found {
            let Some(room) = room_of(&rooms, &path) else { continue };
            if !module.starts_with(room) {
                arrows.entry(module).or_default().insert(room);
            }
        }
    }
    circles(&arrows)
        .into_iter()
        .map(|circle| {
            let names: Vec<String> =
                circle.iter().map(|module| rooms[*module].path.display().to_string()).collect();
            format!("these files import each other in a circle: {}", names.join(", "))
        })
        .collect()
}

/// Returns the module that a file holds; `None` for tests and binaries beside
/// the crate root.
fn module_of(src: &Path, path: &Path) -> Option<ModulePath> {
    let inner = path.strip_prefix(src).ok()?.with_extension("");
    let mut parts: ModulePath =
        inner.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.iter().any(|part| part == "tests") {
        return None;
    }
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    if parts.len() == 1 && (parts[0] == "lib" || parts[0] == "main") {
        parts.clear();
    }
    Some(parts)
}

/// Returns the file that holds the item named by an absolute path: the deepest
/// module that the path runs through.
fn room_of<'a>(
    rooms: &'a BTreeMap<ModulePath, &SourceFile>,
    path: &[String],
) -> Option<&'a ModulePath> {
    (0..=path.len())
        .rev()
        .find_map(|len| rooms.get_key_value(&path[..len]).map(|(module, _)| module))
}

/// Returns the strongly connected sets of more than one file, sorted.
fn circles<'a>(
    arrows: &BTreeMap<&'a ModulePath, BTreeSet<&'a ModulePath>>,
) -> BTreeSet<BTreeSet<&'a ModulePath>> {
    let reach: BTreeMap<&ModulePath, BTreeSet<&ModulePath>> =
        arrows.keys().map(|from| (*from, reachable(arrows, from))).collect();
    let mut circles = BTreeSet::new();
    for (from, all) in &reach {
        let circle: BTreeSet<&ModulePath> = all
            .iter()
            .copied()
            .filter(|to| reach.get(to).is_some_and(|back| back.contains(from)))
            .collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    circles
}

fn reachable<'a>(
    arrows: &BTreeMap<&'a ModulePath, BTreeSet<&'a ModulePath>>,
    from: &'a ModulePath,
) -> BTreeSet<&'a ModulePath> {
    let mut reached = BTreeSet::new();
    let mut pending = vec![from];
    while let Some(next) = pending.pop() {
        for to in arrows.get(next).into_iter().flatten() {
            if reached.insert(*to) {
                pending.push(to);
            }
        }
    }
    reached
}

/// Collects the paths into the same crate that a file names, as absolute paths.
struct Paths {
    module: ModulePath,
    found: Vec<Vec<String>>,
}

impl Paths {
    fn add(&mut self, path: &[String]) {
        let Some(first) = path.first() else { return };
        let mut absolute = match first.as_str() {
            "crate" => Vec::new(),
            "self" => self.module.clone(),
            "super" => {
                let mut parent = self.module.clone();
                parent.pop();
                parent
            }
            _ => return,
        };
        for part in &path[1..] {
            if part == "super" {
                absolute.pop();
            } else {
                absolute.push(part.clone());
            }
        }
        self.found.push(absolute);
    }

    fn add_tree(&mut self, tree: &syn::UseTree, prefix: &mut Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.add_tree(&path.tree, prefix);
                prefix.pop();
            }
            syn::UseTree::Name(name) => {
                prefix.push(name.ident.to_string());
                self.add(prefix);
                prefix.pop();
            }
            syn::UseTree::Rename(rename) => {
                prefix.push(rename.ident.to_string());
                self.add(prefix);
                prefix.pop();
            }
            syn::UseTree::Glob(_) => self.add(prefix),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_tree(tree, prefix);
                }
            }
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if is_test(&module.attrs) || module.content.is_none() {
            return;
        }
        self.module.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_test(&item.attrs) {
            self.add_tree(&item.tree, &mut Vec::new());
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> =
            path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if names.len() > 1 && path.leading_colon.is_none() {
            self.add(&names);
        }
        visit::visit_path(self, path);
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) => {
            list.path.is_ident("cfg") && list.tokens.to_string().starts_with("test")
        }
        syn::Meta::NameValue(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<SourceFile> = files
            .iter()
            .map(|(path, text)| SourceFile { path: path.into(), text: (*text).into() })
            .collect();
        find(Path::new("src"), &files)
    }

    #[test]
    fn two_files_that_import_each_other_are_found() {
        let files = [
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a.rs", "use crate::b::{B, C as D}; pub struct A;"),
            ("src/b.rs", "pub struct B(super::a::A);"),
        ];
        assert_eq!(
            found(&files),
            ["these files import each other in a circle: src/a.rs, src/b.rs"]
        );
    }

    #[test]
    fn a_circle_through_a_child_module_is_found() {
        let files = [
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a/mod.rs", "mod inner; pub use self::inner::run; pub struct A;"),
            ("src/a/inner.rs", "pub fn run() { crate::b::go() }"),
            ("src/b.rs", "use crate::a::A; pub fn go() {}"),
        ];
        assert_eq!(found(&files).len(), 1);
    }

    #[test]
    fn a_module_and_its_children_are_one_thing() {
        let files = [
            ("src/lib.rs", "mod a; pub struct Root;"),
            ("src/a/mod.rs", "mod b; use self::b::B; pub struct A;"),
            ("src/a/b.rs", "use super::A; use crate::Root; pub struct B;"),
        ];
        assert_eq!(found(&files), [] as [String; 0]);
    }

    #[test]
    fn tests_may_import_anything() {
        let files = [
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a.rs", "use crate::b::B; pub struct A;"),
            ("src/b.rs", "pub struct B; #[cfg(test)] mod tests { use crate::a::A; }"),
            ("src/b/tests.rs", "use crate::a::A;"),
        ];
        assert_eq!(found(&files), [] as [String; 0]);
    }

    #[test]
    fn arrows_in_one_direction_are_no_circle() {
        let files = [
            ("src/main.rs", "mod a; mod b; mod c; use crate::a::A;"),
            ("src/a.rs", "use crate::{b::B, c::C};"),
            ("src/b.rs", "use crate::c::*;"),
            ("src/c.rs", "pub struct C; impl C { fn f() { self::g() } } fn g() {}"),
        ];
        assert_eq!(found(&files), [] as [String; 0]);
    }
}
