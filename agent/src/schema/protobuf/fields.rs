//! Fields by number: kept, changed, removed, added.

use prost_types::DescriptorProto;
use prost_types::FieldDescriptorProto;
use prost_types::field_descriptor_proto::{Label, Type};

use super::types::{Change, type_change, type_word};
use super::{Walk, is_map_entry};
use crate::schema::pair::Hurts;

impl Walk<'_> {
    pub(super) fn message(
        &mut self,
        old: &DescriptorProto,
        new: &DescriptorProto,
        old_name: &str,
        new_name: &str,
    ) {
        for field in &old.field {
            let path = format!("{old_name}.{}", field.name());
            let number = field.number();
            match new.field.iter().find(|other| other.number() == number) {
                Some(newer) => self.kept(field, newer, &path),
                None => self.removed(field, new, &path),
            }
        }
        for field in &new.field {
            let number = field.number();
            if !old.field.iter().any(|other| other.number() == number) {
                self.added(field, old, &format!("{new_name}.{}", field.name()));
            }
        }
        self.oneofs(old, new, old_name);
        for range in &old.reserved_range {
            // A message's range ends before its end.
            let is_kept = |number: i32| is_reserved(new, number) || has_number(new, number);
            let numbers = range.start()..range.end();
            // A range may be as long as there are numbers; its ends tell as much.
            let ends = [numbers.start, numbers.end.saturating_sub(1)];
            if !ends.into_iter().all(is_kept) {
                let what = format!(
                    "`reserved {} to {}` is gone: the next field may take such a number",
                    ends[0], ends[1]
                );
                self.found(Hurts::Note, old_name, what);
            }
        }
    }

    fn kept(&mut self, old: &FieldDescriptorProto, new: &FieldDescriptorProto, path: &str) {
        let number = new.number();
        if old.name() != new.name() {
            let what = format!(
                "{number} is now called {}: the wire does not know names, JSON does",
                new.name()
            );
            self.found(Hurts::Note, path, what);
        } else if old.json_name() != new.json_name() {
            let what = format!("its JSON name is now {}", new.json_name());
            self.found(Hurts::Note, path, what);
        }
        match type_change(old.r#type(), new.r#type()) {
            Change::None => {}
            Change::Wire(hurts, what) => {
                let (from, into) = (type_word(old.r#type()), type_word(new.r#type()));
                self.found(hurts, path, format!("{from} became {into}: {what}"));
                if hurts == Hurts::Both {
                    return;
                }
            }
        }
        self.inner(old, new, path);
        self.label(old, new, path);
    }

    /// What a field of messages or enums holds.
    fn inner(&mut self, old: &FieldDescriptorProto, new: &FieldDescriptorProto, path: &str) {
        if old.r#type() != new.r#type() {
            return;
        }
        let names = (
            old.type_name().trim_start_matches('.'),
            new.type_name().trim_start_matches('.'),
        );
        let (before, after) = (self.old, self.new);
        let is_renamed = names.0 != names.1;
        match new.r#type() {
            Type::Message | Type::Group => {
                let (Some(older), Some(newer)) = (before.message(names.0), after.message(names.1))
                else {
                    return self.elsewhere(is_renamed, names, path);
                };
                if is_renamed && !(is_map_entry(older) && is_map_entry(newer)) {
                    let what = format!("{} is now {}", names.0, names.1);
                    self.found(Hurts::Note, path, what);
                }
                self.meet(names.0, names.1);
            }
            Type::Enum => {
                let (Some(older), Some(newer)) =
                    (before.enumeration(names.0), after.enumeration(names.1))
                else {
                    return self.elsewhere(is_renamed, names, path);
                };
                self.enumeration(older, newer, names.0, names.1);
            }
            _ => {}
        }
    }

    /// A type whose definition is not in both sets cannot be compared.
    fn elsewhere(&mut self, is_renamed: bool, names: (&str, &str), path: &str) {
        if is_renamed {
            let what = format!(
                "{} became {}, which cannot be compared: write the sets with --include_imports",
                names.0, names.1
            );
            self.found(Hurts::Both, path, what);
        }
    }

    fn label(&mut self, old: &FieldDescriptorProto, new: &FieldDescriptorProto, path: &str) {
        use Label::{Optional, Repeated, Required};
        // Text and messages stand in records of their own length, one for each value; numbers are
        // packed into one, which a reader of a single value takes for something else.
        let is_packable = !matches!(
            new.r#type(),
            Type::String | Type::Bytes | Type::Message | Type::Group
        );
        let (hurts, what) = match (old.label(), new.label()) {
            (a, b) if a == b => return,
            (Optional, Required) => (
                Hurts::Backward,
                "now required: old data without it is refused",
            ),
            (Required, Optional) => (
                Hurts::Forward,
                "no longer required: old readers refuse data without it",
            ),
            (Required, Repeated) => (
                Hurts::Forward,
                "required became repeated: old readers refuse data without a value",
            ),
            (Repeated, Required) => (
                Hurts::Backward,
                "repeated became required: old data without a value is refused",
            ),
            (Optional, Repeated) if is_packable => (
                Hurts::Forward,
                "became repeated: packed numbers are no single value to old readers",
            ),
            (Repeated, Optional) if is_packable => (
                Hurts::Backward,
                "no longer repeated: packed numbers of old data are no single value",
            ),
            (Optional, Repeated) => (
                Hurts::Note,
                "became repeated: old readers keep one value of many",
            ),
            _ => (
                Hurts::Note,
                "no longer repeated: of many values in old data one is kept",
            ),
        };
        self.found(hurts, path, what.to_owned());
    }

    fn removed(&mut self, field: &FieldDescriptorProto, new: &DescriptorProto, path: &str) {
        let number = field.number();
        if field.label() == Label::Required {
            let what = "removed, and old readers require it";
            self.found(Hurts::Forward, path, what.to_owned());
        }
        let moved = new.field.iter().find(|other| other.name() == field.name());
        if !is_reserved(new, number) {
            let what = match moved {
                Some(moved) => format!(
                    "moved from {number} to {} without `reserved {number}`: old data has it under \
                     {number}",
                    moved.number()
                ),
                None => format!(
                    "removed without `reserved {number}`: the next field to use the number would \
                     read old data as its own"
                ),
            };
            self.found(Hurts::Both, path, what);
        } else if let Some(moved) = moved {
            let what = format!("moved from {number} to {}", moved.number());
            self.found(Hurts::Both, path, what);
        } else if !new.reserved_name.iter().any(|name| name == field.name()) {
            let what = format!(
                "removed, its number is reserved and its name is not: JSON may come to mean \
                 something else by \"{}\"",
                field.name()
            );
            self.found(Hurts::Note, path, what);
        }
    }

    fn added(&mut self, field: &FieldDescriptorProto, old: &DescriptorProto, path: &str) {
        let number = field.number();
        if is_reserved(old, number) {
            let what = format!("{number} was reserved: old data may have another field under it");
            self.found(Hurts::Both, path, what);
        }
        if old.reserved_name.iter().any(|name| name == field.name()) {
            let what = format!("the name \"{}\" was reserved", field.name());
            self.found(Hurts::Note, path, what);
        }
        if field.label() == Label::Required {
            let what = "new and required: old data has none";
            self.found(Hurts::Backward, path, what.to_owned());
        }
    }
}

fn is_reserved(message: &DescriptorProto, number: i32) -> bool {
    message
        .reserved_range
        .iter()
        .any(|range| (range.start()..range.end()).contains(&number))
}

fn has_number(message: &DescriptorProto, number: i32) -> bool {
    message.field.iter().any(|field| field.number() == number)
}
