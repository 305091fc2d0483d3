//! A writer's schema and its mapping to a program: which field becomes what is settled here, once.

use apache_avro::Schema;
use apache_avro::schema::{RecordField, RecordSchema};

use super::node::{Children, Node, NodeBuilder, NodeId, Place, WIDTH_ENDLESS};
use super::plan::{CompileError, Id, Mapping, Program, Shape, Step, Target, Text, Unit};
use crate::decode::json::severity;
use crate::limits::AVRO_NODES_MAX;

/// A record's fields, under the names that writers know them by.
const FIELDS: [(Target, &str); 7] = [
    (Target::TimeUnixNano, "time_unix_nano"),
    (Target::SeverityNumber, "severity_number"),
    (Target::ServiceName, "service_name"),
    (Target::Body, "body"),
    (Target::HostName, "host_name"),
    (Target::TraceId, "trace_id"),
    (Target::SpanId, "span_id"),
];
const ATTRIBUTES: &str = "attributes";

/// What a writer's field becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A field of the record.
    Field(Target),
    /// Its entries become attributes.
    Entries,
    /// A record of which some field is mapped: its fields are looked at one by one.
    Enter,
    Attribute,
    Count,
}

pub(super) fn compile(
    writer: &Schema,
    mapping: &Mapping,
) -> Result<(Shape, Program), CompileError> {
    let mut compiler = Compiler {
        builder: NodeBuilder::new(writer)?,
        mapping,
        found: vec![false; mapping.fields.len()],
        steps: Vec::new(),
        branches: Vec::new(),
        severities: Vec::new(),
    };
    compiler.check_claims()?;
    let outer = Place {
        schema: writer,
        namespace: None,
    };
    let (shape, place) = match writer {
        Schema::Array(array) => {
            let items = Place {
                schema: &array.items,
                ..outer
            };
            (Shape::Array, compiler.builder.resolve(items)?)
        }
        _ => (Shape::Record, outer),
    };
    let Schema::Record(record) = place.schema else {
        return Err(CompileError::NoRecord);
    };
    // Made for its width: the steps read a record's fields one by one.
    let whole = compiler.builder.node(&place)?;
    compiler.record(record, &place, "")?;
    let missed = compiler.found.iter().position(|found| !found);
    if let Some(missed) = missed {
        return Err(CompileError::NoField(mapping.fields[missed].0.clone()));
    }
    let program = compiler.finish(whole)?;
    Ok((shape, program))
}

struct Compiler<'s, 'm> {
    builder: NodeBuilder<'s>,
    mapping: &'m Mapping,
    /// Which of the mapping's paths are fields of the schema.
    found: Vec<bool>,
    steps: Vec<Step>,
    branches: Vec<u32>,
    severities: Vec<u32>,
}

impl<'s> Compiler<'s, '_> {
    /// A field of the record is filled from one place.
    fn check_claims(&self) -> Result<(), CompileError> {
        for (field, _) in FIELDS {
            let claims = self.mapping.fields.iter().filter(|(_, to)| *to == field);
            if claims.count() > 1 {
                return Err(CompileError::Twice(field));
            }
        }
        Ok(())
    }

    /// Steps for a record's fields; `prefix` is the path to it with a dot behind, or nothing.
    fn record(
        &mut self,
        record: &'s RecordSchema,
        place: &Place<'s>,
        prefix: &str,
    ) -> Result<(), CompileError> {
        let namespace = record.name.fully_qualified_name(&place.namespace).namespace;
        let fields: Vec<(&RecordField, Place<'s>)> = record
            .fields
            .iter()
            .map(|field| {
                let namespace = namespace.clone();
                let schema = &field.schema;
                (field, Place { schema, namespace })
            })
            .collect();
        let roles = self.roles(&fields, prefix)?;
        for ((field, place), role) in fields.iter().zip(roles) {
            self.value(place, role, &format!("{prefix}{}", field.name))?;
        }
        Ok(())
    }

    /// Configured, else by name, else by alias; times by their type; the rest has no place.
    fn roles(
        &mut self,
        fields: &[(&RecordField, Place<'s>)],
        prefix: &str,
    ) -> Result<Vec<Role>, CompileError> {
        let mut roles = vec![None; fields.len()];
        for ((field, place), role) in fields.iter().zip(&mut roles) {
            *role = self.configured(&format!("{prefix}{}", field.name), place)?;
        }
        if prefix.is_empty() {
            // All names first: no field loses its own to another's alias.
            for by_alias in [false, true] {
                for (target, name) in FIELDS {
                    let claimed = self.mapping.fields.iter().any(|(_, to)| *to == target);
                    if !claimed {
                        let role = Role::Field(target);
                        self.claim(fields, &mut roles, (name, by_alias), role)?;
                    }
                }
                self.claim(fields, &mut roles, (ATTRIBUTES, by_alias), Role::Entries)?;
            }
            let time = Role::Field(Target::TimeUnixNano);
            let configured = self.mapping.fields.iter();
            let has_time = roles.contains(&Some(time))
                || configured
                    .clone()
                    .any(|(_, to)| *to == Target::TimeUnixNano);
            if !has_time {
                for ((_, place), role) in fields.iter().zip(&mut roles) {
                    if role.is_none() && self.any_branch(place, is_timestamp)? {
                        *role = Some(time);
                        break;
                    }
                }
            }
        }
        let unmapped = self.unmapped();
        Ok(roles.iter().map(|role| role.unwrap_or(unmapped)).collect())
    }

    /// What the mapping says of a field, if anything.
    fn configured(&mut self, path: &str, place: &Place<'s>) -> Result<Option<Role>, CompileError> {
        let mapping = self.mapping;
        let own = mapping.fields.iter().position(|(key, _)| key == path);
        if let Some(own) = own {
            self.found[own] = true;
            return match mapping.fields[own].1 {
                Target::Attribute => Ok(Some(Role::Attribute)),
                Target::Count => Ok(Some(Role::Count)),
                target if self.can_take(Role::Field(target), place)? => {
                    Ok(Some(Role::Field(target)))
                }
                target => Err(CompileError::CannotTake {
                    path: path.to_owned(),
                    found: format!("{}", self.builder.resolve(place.clone())?.schema),
                    target,
                }),
            };
        }
        let inner = format!("{path}.");
        let is_path = mapping
            .fields
            .iter()
            .any(|(key, _)| key.starts_with(&inner));
        Ok(is_path.then_some(Role::Enter))
    }

    /// Gives a role that no field has yet to the first field of that name, or with that alias,
    /// whose type suits it.
    fn claim(
        &self,
        fields: &[(&RecordField, Place<'s>)],
        roles: &mut [Option<Role>],
        (name, by_alias): (&str, bool),
        role: Role,
    ) -> Result<(), CompileError> {
        if roles.contains(&Some(role)) {
            return Ok(());
        }
        for (index, (field, place)) in fields.iter().enumerate() {
            let aliases = field.aliases.as_deref().unwrap_or(&[]);
            let is_meant = match by_alias {
                false => field.name == name,
                true => aliases.iter().any(|alias| alias == name),
            };
            if is_meant && roles[index].is_none() && self.can_take(role, place)? {
                roles[index] = Some(role);
                return Ok(());
            }
        }
        Ok(())
    }

    fn unmapped(&self) -> Role {
        match self.mapping.count_unmapped {
            true => Role::Count,
            false => Role::Attribute,
        }
    }

    /// Whether the role suits a type, or one branch of a union.
    fn can_take(&self, role: Role, place: &Place<'s>) -> Result<bool, CompileError> {
        self.any_branch(place, |schema| suits(role, schema))
    }

    fn any_branch(
        &self,
        place: &Place<'s>,
        suits: impl Fn(&Schema) -> bool,
    ) -> Result<bool, CompileError> {
        let place = self.builder.resolve(place.clone())?;
        let Schema::Union(union) = place.schema else {
            return Ok(suits(place.schema));
        };
        for schema in union.variants() {
            let namespace = place.namespace.clone();
            if suits(self.builder.resolve(Place { schema, namespace })?.schema) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Steps for one value of the writer's.
    fn value(&mut self, place: &Place<'s>, role: Role, path: &str) -> Result<(), CompileError> {
        let place = self.builder.resolve(place.clone())?;
        match (place.schema, role) {
            // No bytes, and nothing said.
            (Schema::Null, _) => Ok(()),
            (_, Role::Attribute) => {
                let name = self.builder.name(path)?;
                let node = self.builder.node(&place)?;
                self.push(Step::Attribute { name, node })
            }
            (_, Role::Count) => {
                let node = self.builder.node(&place)?;
                self.push(Step::Count(node))
            }
            (Schema::Union(union), _) => self.union(union.variants(), &place, role, path),
            (Schema::Record(record), Role::Enter) => {
                self.record(record, &place, &format!("{path}."))
            }
            (Schema::Map(map), Role::Entries) => {
                let value = self.builder.node(&Place {
                    schema: &map.types,
                    namespace: place.namespace.clone(),
                })?;
                self.push(Step::Entries(value))
            }
            (schema, Role::Field(target)) if suits(role, schema) => {
                self.field(schema, target, path)
            }
            // A branch of a union whose other branch the role was meant for.
            _ => self.value(&place, self.unmapped(), path),
        }
    }

    fn union(
        &mut self,
        branches: &'s [Schema],
        place: &Place<'s>,
        role: Role,
        path: &str,
    ) -> Result<(), CompileError> {
        let first = self.branches.len() as u32;
        let count = branches.len() as u32;
        self.branches
            .resize(self.branches.len() + branches.len(), 0);
        self.push(Step::Branch(Children { first, count }))?;
        let mut ends = Vec::new();
        for (slot, schema) in (first as usize..).zip(branches) {
            self.branches[slot] = self.steps.len() as u32;
            let namespace = place.namespace.clone();
            self.value(&Place { schema, namespace }, role, path)?;
            ends.push(self.steps.len());
            self.push(Step::Jump(0))?;
        }
        for end in ends {
            self.steps[end] = Step::Jump(self.steps.len() as u32);
        }
        Ok(())
    }

    /// The step that fills a field of the record from a type that suits it.
    fn field(&mut self, schema: &Schema, target: Target, path: &str) -> Result<(), CompileError> {
        let step = match target {
            Target::TimeUnixNano => match schema {
                Schema::Long | Schema::TimestampNanos | Schema::LocalTimestampNanos => {
                    Step::TimeNanoseconds
                }
                _ => Step::Time {
                    unit: unit(schema),
                    is_int: matches!(schema, Schema::Int | Schema::Date),
                    name: self.builder.name(path)?,
                },
            },
            Target::SeverityNumber => match schema {
                Schema::Int => Step::SeverityInt,
                Schema::Enum(schema) => self.severities(&schema.symbols),
                Schema::String => Step::SeverityText(self.builder.name(path)?),
                _ => Step::SeverityLong,
            },
            Target::ServiceName => self.text(Text::ServiceName, schema)?,
            Target::Body => self.text(Text::Body, schema)?,
            Target::HostName => self.text(Text::HostName, schema)?,
            Target::TraceId => id(Id::Trace, schema)?,
            Target::SpanId => id(Id::Span, schema)?,
            Target::Attribute | Target::Count => unreachable!("roles of their own"),
        };
        self.push(step)
    }

    fn severities(&mut self, symbols: &[String]) -> Step {
        let first = self.severities.len() as u32;
        let numbers = symbols.iter().map(|symbol| severity::word(symbol));
        self.severities.extend(numbers.flatten());
        Step::SeverityEnum(Children {
            first,
            count: symbols.len() as u32,
        })
    }

    fn text(&mut self, field: Text, schema: &Schema) -> Result<Step, CompileError> {
        let Schema::Enum(schema) = schema else {
            return Ok(Step::Text(field));
        };
        let first = self.builder.nodes.symbols.len() as u32;
        for symbol in &schema.symbols {
            let name = self.builder.name(symbol)?;
            self.builder.nodes.symbols.push(name);
        }
        let count = schema.symbols.len() as u32;
        Ok(Step::TextEnum(field, Children { first, count }))
    }

    fn push(&mut self, step: Step) -> Result<(), CompileError> {
        if self.steps.len() >= AVRO_NODES_MAX {
            return Err(CompileError::TooLarge);
        }
        self.steps.push(step);
        Ok(())
    }

    fn finish(self, whole: NodeId) -> Result<Program, CompileError> {
        let nodes = self.builder.finish();
        let width_min = nodes.width(whole);
        if width_min == WIDTH_ENDLESS {
            return Err(CompileError::Endless);
        }
        let mut steps = self.steps;
        let mut sources = steps.iter_mut().filter(|step| pushes_attributes(step));
        let mut uses_scratch = false;
        match (sources.next(), sources.next()) {
            (None, _) => {}
            // A map of strings and nothing beside it: its entries are read where they stand.
            (Some(step), None) if is_map_of_strings(step, &nodes.nodes) => *step = Step::Attributes,
            _ => uses_scratch = true,
        }
        Ok(Program {
            steps,
            branches: self.branches,
            severities: self.severities,
            nodes,
            width_min,
            uses_scratch,
        })
    }
}

fn pushes_attributes(step: &Step) -> bool {
    matches!(
        step,
        Step::Time { .. } | Step::SeverityText(_) | Step::Entries(_) | Step::Attribute { .. }
    )
}

fn is_map_of_strings(step: &Step, nodes: &[Node]) -> bool {
    matches!(step, Step::Entries(value) if nodes[*value as usize] == Node::String)
}

/// Whether a type that is no union can take a role. Where it is a field of the record, Avro's
/// promotions count (int to long, string to bytes and back), and what loses nothing beside them.
fn suits(role: Role, schema: &Schema) -> bool {
    match role {
        Role::Field(Target::TimeUnixNano) => {
            matches!(schema, Schema::Long | Schema::Int) || is_timestamp(schema)
        }
        Role::Field(Target::SeverityNumber) => match schema {
            Schema::Int | Schema::Long | Schema::String => true,
            Schema::Enum(schema) => schema
                .symbols
                .iter()
                .all(|symbol| severity::word(symbol).is_some()),
            _ => false,
        },
        Role::Field(Target::ServiceName | Target::Body | Target::HostName) => matches!(
            schema,
            Schema::String | Schema::Bytes | Schema::Enum(_) | Schema::Uuid
        ),
        Role::Field(Target::TraceId | Target::SpanId) => {
            matches!(schema, Schema::Bytes | Schema::String | Schema::Fixed(_))
        }
        Role::Field(Target::Attribute | Target::Count) => false,
        Role::Entries => matches!(schema, Schema::Map(_)),
        Role::Enter => matches!(schema, Schema::Record(_)),
        Role::Attribute | Role::Count => true,
    }
}

fn is_timestamp(schema: &Schema) -> bool {
    matches!(
        schema,
        Schema::TimestampMillis
            | Schema::TimestampMicros
            | Schema::TimestampNanos
            | Schema::LocalTimestampMillis
            | Schema::LocalTimestampMicros
            | Schema::LocalTimestampNanos
            | Schema::Date
    )
}

fn unit(schema: &Schema) -> Unit {
    match schema {
        Schema::TimestampMillis | Schema::LocalTimestampMillis => Unit::Millisecond,
        Schema::TimestampMicros | Schema::LocalTimestampMicros => Unit::Microsecond,
        Schema::Date => Unit::Day,
        _ => Unit::Nanosecond,
    }
}

fn id(id: Id, schema: &Schema) -> Result<Step, CompileError> {
    match schema {
        Schema::Fixed(fixed) => {
            let len = u32::try_from(fixed.size).map_err(|_| CompileError::TooLarge)?;
            Ok(Step::IdFixed(id, len))
        }
        Schema::String => Ok(Step::IdText(id)),
        _ => Ok(Step::Id(id)),
    }
}
