//! Parts of the sources as one line that people read.

use quote::ToTokens;
use syn::{Attribute, Fields, Item, Visibility};

/// An item without what has lines of its own, and without what users do not see.
pub fn bare(item: &Item) -> Item {
    let mut item = item.clone();
    match &mut item {
        Item::Const(item) => {
            (item.attrs, item.vis) = (Vec::new(), Visibility::Inherited);
        }
        Item::Enum(item) => {
            (item.attrs, item.vis) = (Vec::new(), Visibility::Inherited);
            item.variants.clear();
        }
        Item::Fn(item) => {
            (item.attrs, item.vis) = (Vec::new(), Visibility::Inherited);
            item.block = syn::parse_quote!({});
        }
        Item::Macro(item) => item.attrs.clear(),
        Item::Static(item) => {
            (item.attrs, item.vis) = (Vec::new(), Visibility::Inherited);
        }
        Item::Struct(item) => {
            (item.attrs, item.vis) = (Vec::new(), Visibility::Inherited);
            item.fields = Fields::Unit;
        }
        Item::Trait(item) => {
            (item.attrs, item.vis) = (Vec::new(), Visibility::Inherited);
            item.items.clear();
        }
        Item::Type(item) => {
            (item.attrs, item.vis) = (Vec::new(), Visibility::Inherited);
        }
        _ => {}
    }
    item
}

/// The attributes on which users may rely.
pub fn marks(attributes: &[Attribute]) -> String {
    const SEEN: [&str; 5] = ["derive", "deprecated", "must_use", "non_exhaustive", "repr"];
    let seen = attributes
        .iter()
        .filter(|one| SEEN.iter().any(|seen| one.path().is_ident(seen)));
    let mut texts: Vec<String> = seen
        .map(|one| match one.path().is_ident("must_use") {
            // Why is a matter of documentation.
            true => "must_use".into(),
            false => plain(&one.meta),
        })
        .collect();
    texts.sort();
    texts.iter().map(|text| format!("#[{text}] ")).collect()
}

/// Tokens as one line that people read, without the body of a function.
pub fn plain(node: &impl ToTokens) -> String {
    let text = node.to_token_stream().to_string();
    let mut line = String::new();
    for word in text.split_whitespace() {
        // The second `<` of `A < < B` cannot follow a name.
        let after =
            line.ends_with(['(', '<', '&', '[', '!', '\'', '?', '#']) || line.ends_with("::");
        let before = word.starts_with([',', ';', ')', ']', '>', '?', '(', '[', '<', ':', '.', '!'])
            && !line.ends_with(['=', '+', ',', ':'])
            && !line.ends_with("->");
        if !line.is_empty() && !after && !before {
            line.push(' ');
        }
        line.push_str(word);
    }
    let line = line.replace(",)", ")").replace(",>", ">");
    let line = line.trim_end_matches([';', ' ']);
    let line = line
        .strip_suffix("{ }")
        .or(line.strip_suffix("{}"))
        .unwrap_or(line);
    line.trim_end_matches([' ', ',']).to_owned()
}
