//! What users of a crate can name, a line for each: with its signature and the features that it needs.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit_mut::{self, VisitMut};
use syn::{
    Fields, ImplItem, Item, ItemImpl, PatIdent, Path, PathSegment, Receiver, TraitItem, Type,
    Visibility,
};

use super::print::{bare, marks, plain};
use super::source::{Crate, Module, attributes, cfgs, is_hidden, is_public, name_of};

/// The lines, sorted.
pub fn surface(source: &Crate) -> BTreeSet<String> {
    let surface = Surface::of(source);
    let mut lines = BTreeSet::new();
    for (definition, names) in &surface.names {
        for (name, cfg) in names {
            surface.describe(definition, name, cfg, &mut lines);
        }
    }
    lines
}

/// Public names by what they stand for.
struct Surface<'s> {
    source: &'s Crate,
    names: BTreeMap<Vec<String>, Vec<(String, Vec<String>)>>,
}

impl<'s> Surface<'s> {
    fn of(source: &'s Crate) -> Self {
        let mut names: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for module in source.modules.iter().filter(|module| module.public) {
            let named = |name: &str| [&module.path[..], &[name.to_owned()]].concat().join("::");
            let mut add = |definition: Vec<String>, name: &str, cfg: Vec<String>| {
                let cfg = [&module.cfg[..], &cfg].concat();
                names
                    .entry(definition)
                    .or_default()
                    .push((named(name), cfg));
            };
            for item in &module.items {
                if let Some(name) = name_of(item).filter(|_| is_shown(item)) {
                    let path = [&module.path[..], std::slice::from_ref(&name)].concat();
                    let crate_path = [&["crate".to_owned()][..], &path].concat();
                    add(crate_path, &name, cfgs(attributes(item)));
                }
            }
            for one in module.uses.iter().filter(|one| one.public) {
                let definition = source.resolve(module, &one.target);
                assert!(
                    one.name != "*",
                    "pub use {}::* hides what it exports",
                    one.target.join("::")
                );
                add(definition, &one.name, one.cfg.clone());
            }
        }
        Self { source, names }
    }

    /// The lines of one definition under one public name.
    fn describe(
        &self,
        definition: &[String],
        name: &str,
        cfg: &[String],
        lines: &mut BTreeSet<String>,
    ) {
        let mut add = |name: &str, text: String, more: &[String]| {
            let all: BTreeSet<&String> = cfg.iter().chain(more).collect();
            let all: Vec<&str> = all.into_iter().map(String::as_str).collect();
            let cfg = if all.is_empty() {
                String::new()
            } else {
                format!(" if {}", all.join(", ").replace("feature = ", ""))
            };
            lines.insert(format!("{name}: {text}{cfg}"));
        };
        let Some(("crate", path)) = definition
            .split_first()
            .map(|(first, rest)| (first.as_str(), rest))
        else {
            return add(name, format!("use {}", definition.join("::")), &[]);
        };
        let found = path.split_last().and_then(|(last, at)| {
            let module = self.source.module(at)?;
            let mut items = module.items.iter();
            Some((
                module,
                items.find(|item| name_of(item).as_ref() == Some(last))?,
            ))
        });
        let Some((module, item)) = found else {
            return add(name, format!("use {}", definition.join("::")), &[]);
        };
        let print = |node: &dyn Fn(&mut Full<'_>) -> String| {
            node(&mut Full {
                surface: self,
                module,
            })
        };
        let text = |item: &Item| {
            let item = bare(item);
            print(&|full| {
                let mut item = item.clone();
                full.visit_item_mut(&mut item);
                plain(&item)
            })
        };
        add(name, marks(attributes(item)) + &text(item), &[]);
        match item {
            Item::Struct(item) => self.fields(module, name, &item.fields, true, &mut add),
            Item::Enum(item) => {
                for variant in item
                    .variants
                    .iter()
                    .filter(|variant| !is_hidden(&variant.attrs))
                {
                    let of = format!("{name}::{}", variant.ident);
                    let value = variant
                        .discriminant
                        .as_ref()
                        .map(|(_, value)| format!(" = {}", plain(value)));
                    let shape = match variant.fields {
                        Fields::Named(_) => " {…}",
                        Fields::Unnamed(_) => " (…)",
                        Fields::Unit => "",
                    };
                    let text = format!(
                        "{}variant{shape}{}",
                        marks(&variant.attrs),
                        value.unwrap_or_default()
                    );
                    add(&of, text, &cfgs(&variant.attrs));
                    self.fields(module, &of, &variant.fields, false, &mut add);
                }
            }
            Item::Trait(item) => {
                for item in &item.items {
                    let (mut item, mut provided) = (item.clone(), "");
                    let (attributes, of) = match &mut item {
                        TraitItem::Fn(item) => {
                            // Who implements the trait may leave it out.
                            if item.default.take().is_some() {
                                provided = " { … }";
                            }
                            (&mut item.attrs, item.sig.ident.to_string())
                        }
                        TraitItem::Type(item) => (&mut item.attrs, item.ident.to_string()),
                        TraitItem::Const(item) => (&mut item.attrs, item.ident.to_string()),
                        _ => continue,
                    };
                    let (marks, cfg) = (marks(attributes), cfgs(attributes));
                    attributes.clear();
                    Full {
                        surface: self,
                        module,
                    }
                    .visit_trait_item_mut(&mut item);
                    add(
                        &format!("{name}::{of}"),
                        marks + &plain(&item) + provided,
                        &cfg,
                    );
                }
            }
            _ => {}
        }
        if matches!(
            item,
            Item::Struct(_) | Item::Enum(_) | Item::Union(_) | Item::Trait(_)
        ) {
            for module in &self.source.modules {
                for item in &module.items {
                    if let Item::Impl(item) = item {
                        self.implementation(module, item, definition, name, &mut add);
                    }
                }
            }
        }
    }

    fn fields(
        &self,
        module: &Module,
        name: &str,
        fields: &Fields,
        with_visibility: bool,
        add: &mut dyn FnMut(&str, String, &[String]),
    ) {
        let mut private = 0;
        for (place, field) in fields.iter().enumerate() {
            if with_visibility && !is_public(&field.vis) || is_hidden(&field.attrs) {
                private += 1;
                continue;
            }
            let of = field
                .ident
                .as_ref()
                .map_or(place.to_string(), ToString::to_string);
            let mut kind = field.ty.clone();
            Full {
                surface: self,
                module,
            }
            .visit_type_mut(&mut kind);
            add(
                &format!("{name}::{of}"),
                format!("field {}", plain(&kind)),
                &cfgs(&field.attrs),
            );
        }
        // Whether users can write one down.
        if private > 0 {
            add(name, "has private fields".into(), &[]);
        }
    }

    /// The lines of an `impl` where it is one for `definition`.
    fn implementation(
        &self,
        module: &Module,
        item: &ItemImpl,
        definition: &[String],
        name: &str,
        add: &mut dyn FnMut(&str, String, &[String]),
    ) {
        let Type::Path(own) = &*item.self_ty else {
            return;
        };
        if self.source.resolve(module, &words(&own.path)) != definition {
            return;
        }
        let mut full = Full {
            surface: self,
            module,
        };
        let around = [&module.cfg[..], &cfgs(&item.attrs)].concat();
        if let Some((not, implemented, _)) = &item.trait_ {
            let resolved = self.source.resolve(module, &words(implemented));
            if resolved.first().is_some_and(|first| first == "crate")
                && !self.names.contains_key(&resolved)
            {
                return;
            }
            let mut head = item.clone();
            head.attrs.clear();
            head.items.retain_mut(|item| match item {
                ImplItem::Type(item) => {
                    item.attrs.clear();
                    true
                }
                _ => false,
            });
            full.visit_item_impl_mut(&mut head);
            let not = if not.is_some() { "no " } else { "" };
            return add(name, format!("{not}{}", plain(&head)), &around);
        }
        for one in &item.items {
            let mut one = one.clone();
            let (of, attributes, visibility) = match &mut one {
                ImplItem::Fn(item) => {
                    item.block = syn::parse_quote!({});
                    (item.sig.ident.to_string(), &mut item.attrs, &mut item.vis)
                }
                ImplItem::Const(item) => (item.ident.to_string(), &mut item.attrs, &mut item.vis),
                _ => continue,
            };
            if !is_public(visibility) || is_hidden(attributes) {
                continue;
            }
            let cfg = [&around[..], &cfgs(attributes)].concat();
            let marks = marks(attributes);
            attributes.clear();
            *visibility = Visibility::Inherited;
            full.visit_impl_item_mut(&mut one);
            // What holds for all of a block, as `impl<T: Copy> …`.
            let mut generics = item.generics.clone();
            full.visit_generics_mut(&mut generics);
            let text = plain(&one);
            let bounds = match generics.params.is_empty() {
                true => String::new(),
                false => format!("impl{} ", plain(&generics)),
            };
            add(
                &format!("{name}::{of}"),
                format!("{marks}{bounds}{text}"),
                &cfg,
            );
        }
    }
}

/// Writes every path out, so that a name that means something else becomes another line.
struct Full<'s> {
    surface: &'s Surface<'s>,
    module: &'s Module,
}

impl VisitMut for Full<'_> {
    /// Whether a function changes its own copy of an argument concerns nobody else.
    fn visit_pat_ident_mut(&mut self, pattern: &mut PatIdent) {
        pattern.mutability = None;
    }

    fn visit_receiver_mut(&mut self, receiver: &mut Receiver) {
        visit_mut::visit_receiver_mut(self, receiver);
        if receiver.reference.is_none() {
            receiver.mutability = None;
        }
    }

    fn visit_path_mut(&mut self, path: &mut Path) {
        visit_mut::visit_path_mut(self, path);
        if path.leading_colon.is_some() {
            return;
        }
        let before = words(path);
        let mut after = self.surface.source.resolve(self.module, &before);
        if let Some(names) = self.surface.names.get(&after) {
            after = names[0].0.split("::").map(str::to_owned).collect();
        }
        if after == before || after.is_empty() {
            return;
        }
        // Arguments are the last ones'.
        let mut last = path.segments.pop().expect("a path has a part").into_value();
        last.ident = syn::Ident::new(&after.pop().expect("it is not empty"), last.ident.span());
        path.segments = after
            .iter()
            .map(|word| PathSegment::from(syn::Ident::new(word, last.ident.span())))
            .chain([last.clone()])
            .collect();
    }
}

fn words(path: &Path) -> Vec<String> {
    path.segments
        .iter()
        .map(|part| part.ident.to_string())
        .collect()
}

/// Whether an item of a public module can be named by users.
fn is_shown(item: &Item) -> bool {
    match item {
        Item::Const(item) => is_public(&item.vis),
        Item::Enum(item) => is_public(&item.vis),
        Item::Fn(item) => is_public(&item.vis),
        Item::Static(item) => is_public(&item.vis),
        Item::Struct(item) => is_public(&item.vis),
        Item::Trait(item) => is_public(&item.vis),
        Item::Type(item) => is_public(&item.vis),
        Item::Union(item) => is_public(&item.vis),
        Item::Macro(item) => item
            .attrs
            .iter()
            .any(|one| one.path().is_ident("macro_export")),
        _ => false,
    }
}
