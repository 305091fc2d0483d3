//! Types as the walkers see them: small nodes in one vector, which name each other by index.
//!
//! A named type is one node however often it is named, and so a recursive schema is a cycle here
//! and ends at compile time; its data end at the limit on nesting.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::{DecimalSchema, Name, Namespace, ResolvedSchema};

use super::plan::CompileError;
use crate::limits::{AVRO_NAMES_LEN_MAX, AVRO_NODES_MAX};

/// Where a node stands in its plan.
pub type NodeId = u32;

/// The bytes of a record that cannot end.
pub const WIDTH_ENDLESS: u64 = u64::MAX;

/// A piece of a plan's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameSpan {
    pub start: u32,
    pub end: u32,
}

/// Nodes of a record or a union: so many in `Nodes::children`, from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Children {
    pub first: u32,
    pub count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(u32),
    /// Its symbols, in `Nodes::symbols`.
    Enum(Children),
    Array(NodeId),
    Map(NodeId),
    Union(Children),
    Record(Children),
}

/// A field of a record, or a branch of a union (which has no name).
#[derive(Clone, Copy, Debug)]
pub struct Child {
    pub name: NameSpan,
    pub node: NodeId,
}

/// All types of a plan, and the texts that its data do not bring with them.
#[derive(Debug, Default)]
pub struct Nodes {
    pub nodes: Vec<Node>,
    /// The fewest bytes that a value of each node takes.
    pub widths: Vec<u64>,
    pub children: Vec<Child>,
    pub symbols: Vec<NameSpan>,
    /// Names of fields and symbols, back to back.
    pub names: String,
}

impl Nodes {
    #[inline(always)]
    pub fn node(&self, id: NodeId) -> Node {
        self.nodes[id as usize]
    }

    #[inline(always)]
    pub fn width(&self, id: NodeId) -> u64 {
        self.widths[id as usize]
    }

    #[inline(always)]
    pub fn children(&self, children: Children) -> &[Child] {
        &self.children[children.first as usize..][..children.count as usize]
    }

    #[inline(always)]
    pub fn symbol(&self, symbols: Children, index: u32) -> NameSpan {
        self.symbols[(symbols.first + index) as usize]
    }

    #[inline(always)]
    pub fn name(&self, span: NameSpan) -> &str {
        &self.names[span.start as usize..span.end as usize]
    }

    /// How many nodes, fields, branches and symbols there are, against which `AVRO_NODES_MAX`
    /// stands.
    fn size(&self) -> usize {
        self.nodes.len() + self.children.len() + self.symbols.len()
    }
}

/// A schema, and the namespace that names without one have where it stands.
#[derive(Clone)]
pub struct Place<'s> {
    pub schema: &'s Schema,
    pub namespace: Namespace,
}

/// Makes nodes of schemas.
pub struct NodeBuilder<'s> {
    pub nodes: Nodes,
    resolved: ResolvedSchema<'s>,
    named: HashMap<Name, NodeId>,
}

impl<'s> NodeBuilder<'s> {
    pub fn new(schema: &'s Schema) -> Result<Self, CompileError> {
        Ok(Self {
            nodes: Nodes::default(),
            resolved: ResolvedSchema::try_from(schema)
                .map_err(|error| CompileError::Names(error.to_string()))?,
            named: HashMap::new(),
        })
    }

    /// What a reference stands for; anything else is itself.
    pub fn resolve(&self, place: Place<'s>) -> Result<Place<'s>, CompileError> {
        let Schema::Ref { name } = place.schema else {
            return Ok(place);
        };
        let name = name.fully_qualified_name(&place.namespace);
        let schema = self.resolved.get_names().get(&name).copied();
        let schema = schema.ok_or_else(|| CompileError::Names(format!("{name} is not defined")))?;
        Ok(Place {
            schema,
            namespace: name.namespace,
        })
    }

    pub fn name(&mut self, text: &str) -> Result<NameSpan, CompileError> {
        let names = &mut self.nodes.names;
        if names.len() + text.len() > AVRO_NAMES_LEN_MAX {
            return Err(CompileError::TooLarge);
        }
        let start = names.len() as u32;
        names.push_str(text);
        Ok(NameSpan {
            start,
            end: names.len() as u32,
        })
    }

    pub fn node(&mut self, place: &Place<'s>) -> Result<NodeId, CompileError> {
        let place = self.resolve(place.clone())?;
        let namespace = &place.namespace;
        let qualified = |name: &Name| name.fully_qualified_name(namespace);
        let node = match place.schema {
            Schema::Null => Node::Null,
            Schema::Boolean => Node::Boolean,
            Schema::Int | Schema::Date | Schema::TimeMillis => Node::Int,
            Schema::Long
            | Schema::TimeMicros
            | Schema::TimestampMillis
            | Schema::TimestampMicros
            | Schema::TimestampNanos
            | Schema::LocalTimestampMillis
            | Schema::LocalTimestampMicros
            | Schema::LocalTimestampNanos => Node::Long,
            Schema::Float => Node::Float,
            Schema::Double => Node::Double,
            Schema::Bytes | Schema::BigDecimal => Node::Bytes,
            // `WriterSchema::parse` sees to it that no UUID is of `fixed` here.
            Schema::String | Schema::Uuid => Node::String,
            Schema::Duration => Node::Fixed(12),
            Schema::Decimal(DecimalSchema { inner, .. }) => {
                return self.node(&Place {
                    schema: inner,
                    namespace: namespace.clone(),
                });
            }
            Schema::Fixed(fixed) => {
                Node::Fixed(u32::try_from(fixed.size).map_err(|_| CompileError::TooLarge)?)
            }
            Schema::Enum(schema) => {
                return self.enumeration(qualified(&schema.name), &schema.symbols);
            }
            Schema::Array(array) => {
                let item = self.node(&within(&place, &array.items))?;
                Node::Array(item)
            }
            Schema::Map(map) => {
                let value = self.node(&within(&place, &map.types))?;
                Node::Map(value)
            }
            Schema::Union(union) => {
                let branches: Vec<_> = union.variants().iter().map(|schema| ("", schema)).collect();
                let children = self.children(&branches, namespace)?;
                Node::Union(children)
            }
            Schema::Record(record) => {
                let name = qualified(&record.name);
                if let Some(&known) = self.named.get(&name) {
                    return Ok(known);
                }
                // The record's own node first: its fields may name it.
                let id = self.push(Node::Null)?;
                self.named.insert(name.clone(), id);
                let fields = record.fields.iter();
                let fields: Vec<_> = fields.map(|field| (&*field.name, &field.schema)).collect();
                self.nodes.nodes[id as usize] =
                    Node::Record(self.children(&fields, &name.namespace)?);
                return Ok(id);
            }
            Schema::Ref { name } => {
                return Err(CompileError::Names(format!("{name} names a name")));
            }
        };
        self.push(node)
    }

    fn enumeration(&mut self, name: Name, symbols: &[String]) -> Result<NodeId, CompileError> {
        if let Some(&known) = self.named.get(&name) {
            return Ok(known);
        }
        let first = self.nodes.symbols.len() as u32;
        for symbol in symbols {
            let span = self.name(symbol)?;
            self.nodes.symbols.push(span);
        }
        let count = symbols.len() as u32;
        let id = self.push(Node::Enum(Children { first, count }))?;
        self.named.insert(name, id);
        Ok(id)
    }

    /// The children stand together, though their own children are made first.
    fn children(
        &mut self,
        children: &[(&str, &'s Schema)],
        namespace: &Namespace,
    ) -> Result<Children, CompileError> {
        let mut made = Vec::with_capacity(children.len());
        for &(name, schema) in children {
            let name = self.name(name)?;
            let namespace = namespace.clone();
            let node = self.node(&Place { schema, namespace })?;
            made.push(Child { name, node });
        }
        let first = self.nodes.children.len() as u32;
        let count = made.len() as u32;
        self.nodes.children.extend(made);
        Ok(Children { first, count })
    }

    fn push(&mut self, node: Node) -> Result<NodeId, CompileError> {
        if self.nodes.size() >= AVRO_NODES_MAX {
            return Err(CompileError::TooLarge);
        }
        self.nodes.nodes.push(node);
        Ok(self.nodes.nodes.len() as NodeId - 1)
    }

    /// The nodes, with the fewest bytes that each takes. All begin as endless, and are lowered until
    /// nothing changes: a record that must hold itself is never lowered.
    pub fn finish(self) -> Nodes {
        let mut nodes = self.nodes;
        nodes.widths = vec![WIDTH_ENDLESS; nodes.nodes.len()];
        loop {
            let mut is_settled = true;
            for id in 0..nodes.nodes.len() {
                let width = width(&nodes, nodes.nodes[id]);
                is_settled &= width == nodes.widths[id];
                nodes.widths[id] = width;
            }
            if is_settled {
                return nodes;
            }
        }
    }
}

fn within<'s>(place: &Place<'s>, schema: &'s Schema) -> Place<'s> {
    Place {
        schema,
        namespace: place.namespace.clone(),
    }
}

fn width(nodes: &Nodes, node: Node) -> u64 {
    let widths = |children: Children| nodes.children(children).iter().map(|c| nodes.width(c.node));
    match node {
        Node::Null => 0,
        Node::Boolean | Node::Int | Node::Long | Node::Bytes | Node::String | Node::Enum(_) => 1,
        // One byte says that there is no block.
        Node::Array(_) | Node::Map(_) => 1,
        Node::Float => 4,
        Node::Double => 8,
        Node::Fixed(len) => u64::from(len),
        Node::Union(branches) => widths(branches)
            .min()
            .map_or(WIDTH_ENDLESS, |width| width.saturating_add(1)),
        Node::Record(fields) => widths(fields).fold(0, u64::saturating_add),
    }
}
