//! The modules of a crate, read from its sources: what each declares, and what its names mean.

use std::fs;
use std::path::Path;

use super::print::plain;
use syn::{Attribute, Item, ItemUse, UseTree, Visibility};

/// A module, with the names that lead to it from the crate.
pub struct Module {
    pub path: Vec<String>,
    /// Whether it can be named from outside by this path.
    pub public: bool,
    /// What its being there depends on.
    pub cfg: Vec<String>,
    pub items: Vec<Item>,
    pub uses: Vec<Use>,
}

/// One name that a module takes from elsewhere; `*` for all.
pub struct Use {
    pub name: String,
    pub target: Vec<String>,
    pub public: bool,
    pub cfg: Vec<String>,
}

pub struct Crate {
    pub modules: Vec<Module>,
}

impl Crate {
    /// Reads a crate from its `lib.rs`. Tests and what is hidden from the documentation are no part of it.
    pub fn read(root: &Path) -> Self {
        let top = Module {
            path: Vec::new(),
            public: true,
            cfg: Vec::new(),
            items: Vec::new(),
            uses: Vec::new(),
        };
        let mut modules = Vec::new();
        let directory = root.parent().expect("a file is in a directory");
        fill(top, items_of(root), directory, &mut modules);
        Self { modules }
    }

    pub fn module(&self, path: &[String]) -> Option<&Module> {
        self.modules.iter().find(|module| module.path == path)
    }

    /// What `path` means in `module`: from the crate on (`crate::…`) for what is here, else as other crates
    /// have it.
    pub fn resolve(&self, module: &Module, path: &[String]) -> Vec<String> {
        self.find(module, path, 0).unwrap_or_else(|| path.to_vec())
    }

    fn find(&self, module: &Module, path: &[String], depth: usize) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        // Names that go in a circle lead nowhere.
        if depth > 16 {
            return None;
        }
        let local = match first.as_str() {
            "crate" => Some((Vec::new(), rest)),
            "self" => Some((module.path.clone(), rest)),
            "super" => {
                let above = module.path.len().saturating_sub(1);
                Some((module.path[..above].to_vec(), rest))
            }
            _ if module.declares(first) => Some((module.path.clone(), path)),
            _ => None,
        };
        if let Some((at, rest)) = local {
            return self.below(&at, rest, depth);
        }
        if let Some(found) = module.uses.iter().find(|one| one.name == *first) {
            let whole = [&found.target[..], rest].concat();
            // A crate's own name, or one that this very line brings in.
            let own = found.target.first() == Some(first);
            return if own {
                Some(whole)
            } else {
                self.find(module, &whole, depth + 1).or(Some(whole))
            };
        }
        let globs = module.uses.iter().filter(|one| one.name == "*");
        globs.into_iter().find_map(|glob| {
            let whole = [&glob.target[..], path].concat();
            let found = self.find(module, &whole, depth + 1)?;
            self.exists(&found).then_some(found)
        })
    }

    /// The same, for a path that begins at a module of ours.
    fn below(&self, at: &[String], rest: &[String], depth: usize) -> Option<Vec<String>> {
        let here = ["crate".to_owned()].into_iter().chain(at.iter().cloned());
        let Some((first, further)) = rest.split_first() else {
            return Some(here.collect());
        };
        let deeper = [at, std::slice::from_ref(first)].concat();
        if self.module(&deeper).is_some() {
            return self.below(&deeper, further, depth);
        }
        let module = self.module(at)?;
        if module.declares(first) {
            return Some(here.chain(rest.iter().cloned()).collect());
        }
        match first.as_str() {
            "super" | "self" => self.find(module, rest, depth + 1),
            _ if module
                .uses
                .iter()
                .any(|one| one.name == *first || one.name == "*") =>
            {
                self.find(module, rest, depth + 1)
            }
            _ => None,
        }
    }

    fn exists(&self, found: &[String]) -> bool {
        let Some((_, path)) = found.split_first().filter(|(first, _)| *first == "crate") else {
            return false;
        };
        self.module(path).is_some()
            || path.split_last().is_some_and(|(name, at)| {
                self.module(at).is_some_and(|module| module.declares(name))
            })
    }
}

impl Module {
    fn declares(&self, name: &str) -> bool {
        self.items
            .iter()
            .any(|item| name_of(item).is_some_and(|found| found == name))
    }
}

/// Reads `items` into `module`, and the modules below it from `directory`.
fn fill(mut module: Module, items: Vec<Item>, directory: &Path, modules: &mut Vec<Module>) {
    for item in items {
        if is_hidden(attributes(&item)) {
            continue;
        }
        match item {
            Item::Use(item) => module.take_use(&item),
            Item::Mod(below) => {
                let name = below.ident.to_string();
                let mut cfg = module.cfg.clone();
                cfg.extend(cfgs(&below.attrs));
                let inner = Module {
                    path: [&module.path[..], std::slice::from_ref(&name)].concat(),
                    public: module.public && is_public(&below.vis),
                    cfg,
                    items: Vec::new(),
                    uses: Vec::new(),
                };
                let (items, within) = match &below.content {
                    Some((_, items)) => (items.clone(), directory.join(&name)),
                    None => {
                        let given = below.attrs.iter().find_map(path_of);
                        let file = given.map(|file| directory.join(file)).unwrap_or_else(|| {
                            let file = directory.join(format!("{name}.rs"));
                            match file.exists() {
                                true => file,
                                false => directory.join(&name).join("mod.rs"),
                            }
                        });
                        (items_of(&file), directory.join(&name))
                    }
                };
                fill(inner, items, &within, modules);
                module.items.push(Item::Mod(below));
            }
            other => module.items.push(other),
        }
    }
    modules.push(module);
}

impl Module {
    fn take_use(&mut self, item: &ItemUse) {
        let (public, cfg) = (is_public(&item.vis), cfgs(&item.attrs));
        self.take(Vec::new(), &item.tree, public, &cfg);
    }

    fn take(&mut self, mut at: Vec<String>, tree: &UseTree, public: bool, cfg: &[String]) {
        let name = match tree {
            UseTree::Path(path) => {
                at.push(path.ident.to_string());
                return self.take(at, &path.tree, public, cfg);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.take(at.clone(), tree, public, cfg);
                }
                return;
            }
            UseTree::Glob(_) => "*".to_owned(),
            UseTree::Name(name) if name.ident == "self" => at.last().cloned().unwrap_or_default(),
            UseTree::Name(name) => {
                at.push(name.ident.to_string());
                name.ident.to_string()
            }
            UseTree::Rename(rename) => {
                if rename.ident != "self" {
                    at.push(rename.ident.to_string());
                }
                rename.rename.to_string()
            }
        };
        self.uses.push(Use {
            name,
            target: at,
            public,
            cfg: cfg.to_vec(),
        });
    }
}

fn items_of(file: &Path) -> Vec<Item> {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
    let parsed = syn::parse_file(&text);
    parsed
        .unwrap_or_else(|error| panic!("{file:?}: {error}"))
        .items
}

pub fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// Of tests, or not meant for users.
pub fn is_hidden(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let text = plain(&attribute.meta);
        text == "cfg(test)" || text == "doc(hidden)"
    })
}

/// The conditions in `#[cfg(…)]`.
pub fn cfgs(attributes: &[Attribute]) -> Vec<String> {
    let cfgs = attributes.iter().filter(|one| one.path().is_ident("cfg"));
    cfgs.filter_map(|one| Some(plain(&one.meta.require_list().ok()?.tokens)))
        .collect()
}

/// The file in `#[path = "…"]`.
fn path_of(attribute: &Attribute) -> Option<String> {
    let value = attribute.meta.require_name_value().ok();
    let value = value.filter(|value| value.path.is_ident("path"))?;
    Some(plain(&value.value).trim_matches('"').to_owned())
}

pub fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// The name that an item gives to its module.
pub fn name_of(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Mod(item) => &item.ident,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}
