//! Fields that move into a oneof or out of it. A oneof keeps the last of its fields that came, so
//! what used to be two values becomes one.

use prost_types::{DescriptorProto, FieldDescriptorProto};

use super::Walk;
use crate::schema::pair::Hurts;

impl Walk<'_> {
    pub(super) fn oneofs(&mut self, old: &DescriptorProto, new: &DescriptorProto, name: &str) {
        // How many fields of the old version each of the new oneofs takes in from outside.
        let entered = |oneof: &str| {
            let fields = new.field.iter().filter(|field| {
                oneof_of(new, field) == Some(oneof)
                    && counterpart(old, field)
                        .is_some_and(|old_field| oneof_of(old, old_field) != Some(oneof))
            });
            fields.count()
        };
        for field in &new.field {
            let Some(before) = counterpart(old, field) else {
                continue;
            };
            let path = format!("{name}.{}", before.name());
            match (oneof_of(old, before), oneof_of(new, field)) {
                (a, b) if a == b => {}
                (Some(left), None) => {
                    let what = format!(
                        "left oneof {left}: data may now have it beside the others, of which old \
                         readers keep the last"
                    );
                    self.found(Hurts::Forward, &path, what);
                }
                (from, Some(oneof)) => {
                    let existed = old.oneof_decl.iter().any(|each| each.name() == oneof);
                    if from.is_none() && !existed && entered(oneof) == 1 {
                        let what = format!("the only old field in the new oneof {oneof}: safe");
                        self.found(Hurts::Note, &path, what);
                    } else {
                        let what = format!(
                            "moved into oneof {oneof}: of old data that has several of its fields \
                             only the last is kept"
                        );
                        self.found(Hurts::Backward, &path, what);
                    }
                }
                (None, None) => {}
            }
        }
    }
}

fn counterpart<'a>(
    old: &'a DescriptorProto,
    field: &FieldDescriptorProto,
) -> Option<&'a FieldDescriptorProto> {
    let number = field.number();
    old.field.iter().find(|other| other.number() == number)
}

/// The oneof that a field is in; not the one that protoc makes up for `optional` in proto3.
fn oneof_of<'a>(message: &'a DescriptorProto, field: &FieldDescriptorProto) -> Option<&'a str> {
    let index = field.oneof_index.filter(|_| !field.proto3_optional())?;
    let declared = message.oneof_decl.get(usize::try_from(index).ok()?)?;
    Some(declared.name())
}
