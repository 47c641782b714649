//! Objects whose fields stand in the registry: as table, plain, json, ndjson or csv.

use aap_client::operations::{self, Field, FieldType, Format, Id};
use serde_json::{Map, Value, json};

use crate::arguments::format_for;
use crate::context::Context;
use crate::failure::Failure;
use crate::table::{Table, terminal_width};
use crate::text;

/// Version of the JSON envelope. A minor version only adds.
pub(crate) const FORMAT_VERSION: &str = "1.0";

/// One object, by the names of its fields.
pub(crate) type Object = Map<String, Value>;

/// Makes an [`Object`] of a `json!` literal.
pub(crate) fn object(value: Value) -> Object {
    match value {
        Value::Object(map) => map,
        other => unreachable!("an object literal, not {other}"),
    }
}

/// Prints a list.
pub(crate) fn print_list(
    context: &mut Context<'_>,
    id: Id,
    items: Vec<Object>,
    as_of_us: i64,
) -> Result<(), Failure> {
    let total = items.len();
    print_list_of(context, id, items, total, as_of_us)
}

/// Prints a list of which the platform may have sent only the first of `total`.
pub(crate) fn print_list_of(
    context: &mut Context<'_>,
    id: Id,
    mut items: Vec<Object>,
    total: usize,
    as_of_us: i64,
) -> Result<(), Failure> {
    let format = format_for(id, &context.settings, context.printer.stdout_is_terminal())?;
    let output = operations::of(id).output;
    let truncated = limit_items(context, &mut items, total);
    match format {
        Format::Json => {
            context.printer.line(&envelope(output.kind(), &items, truncated, as_of_us).to_string())?
        }
        Format::Ndjson => {
            for item in &items {
                context.printer.line(&Value::Object(item.clone()).to_string())?;
            }
        }
        Format::Csv => print_separated(context, output.fields(), &items, ",", text::escape_csv)?,
        Format::Plain => {
            print_separated(context, &shown(output.fields()), &items, "\t", text::escape_plain)?;
        }
        _ => print_table(context, &shown(output.fields()), &items)?,
    }
    Ok(())
}

/// Prints one object: `name  value` lines, or JSON. `more` prints what the lines leave out.
pub(crate) fn print_item(
    context: &mut Context<'_>,
    id: Id,
    item: &Object,
    as_of_us: i64,
    more: impl FnOnce(&mut Context<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let output = operations::of(id).output;
    match format_for(id, &context.settings, context.printer.stdout_is_terminal())? {
        Format::Json => {
            let document = json!({
                "format_version": FORMAT_VERSION,
                "kind": output.kind(),
                "item": item,
                "as_of": text::rfc3339(as_of_us),
            });
            context.printer.line(&document.to_string())?;
        }
        Format::Ndjson => context.printer.line(&Value::Object(item.clone()).to_string())?,
        format => {
            print_fields(context, format, output.fields(), item)?;
            more(context)?;
        }
    }
    Ok(())
}

/// Cuts the items to what is to be printed of `total`, and says on stderr if some are missing; whether some are.
pub(crate) fn limit_items<T>(context: &mut Context<'_>, items: &mut Vec<T>, total: usize) -> bool {
    let limit = usize::try_from(context.settings.limit).unwrap_or(usize::MAX);
    if limit != 0 {
        items.truncate(limit);
    }
    let shown = items.len();
    let truncated = shown < total;
    if truncated {
        context.printer.note(&format!("note: {shown} of {total} are shown; `--limit 0` shows all"));
    }
    truncated
}

fn envelope(kind: &str, items: &[Object], truncated: bool, as_of_us: i64) -> Value {
    json!({
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "items": items,
        "truncated": truncated,
        "next": null,
        "as_of": text::rfc3339(as_of_us),
        "stale_ms": 0,
    })
}

/// Fields that tables show.
pub(crate) fn shown(fields: &[Field]) -> Vec<Field> {
    fields.iter().copied().filter(|field| !field.heading.is_empty()).collect()
}

fn print_fields(
    context: &mut Context<'_>,
    format: Format,
    fields: &[Field],
    item: &Object,
) -> Result<(), Failure> {
    let now_us = context.now_us();
    let fields = shown(fields);
    let width = fields.iter().map(|field| field.heading.len()).max().unwrap_or(0);
    for field in fields {
        let value = item.get(field.name).unwrap_or(&Value::Null);
        let line = match format {
            Format::Plain => format!("{}\t{}", field.name, text::escape_plain(&raw(value))),
            _ => format!("{:width$}  {}", field.heading, text::clean(&readable(field.value, value, now_us))),
        };
        context.printer.line(line.trim_end())?;
    }
    Ok(())
}

/// Prints objects as aligned columns.
pub(crate) fn print_table(
    context: &mut Context<'_>,
    fields: &[Field],
    items: &[Object],
) -> Result<(), Failure> {
    let now_us = context.now_us();
    let right: Vec<bool> = fields.iter().map(|field| is_number(field.value)).collect();
    let rows: Vec<Vec<String>> = items.iter().map(|item| cells(fields, item, now_us)).collect();
    let headings = fields.iter().map(|field| field.heading.to_uppercase()).collect();
    let width = if context.printer.stdout_is_terminal() { terminal_width() } else { None };
    let table = Table::sized(headings, &right, &rows, width);
    if !context.settings.no_headers {
        let header = context.printer.style().bold(&table.header());
        context.printer.line(&header)?;
    }
    for row in &rows {
        context.printer.line(&table.line(row))?;
    }
    Ok(())
}

fn cells(fields: &[Field], item: &Object, now_us: i64) -> Vec<String> {
    let value = |field: &Field| item.get(field.name).unwrap_or(&Value::Null);
    fields.iter().map(|field| text::clean(&readable(field.value, value(field), now_us))).collect()
}

fn print_separated(
    context: &mut Context<'_>,
    fields: &[Field],
    items: &[Object],
    separator: &str,
    escape: fn(&str) -> String,
) -> Result<(), Failure> {
    if !context.settings.no_headers {
        let names: Vec<&str> = fields.iter().map(|field| field.name).collect();
        context.printer.line(&names.join(separator))?;
    }
    for item in items {
        let cells: Vec<String> =
            fields.iter().map(|field| escape(&raw(item.get(field.name).unwrap_or(&Value::Null)))).collect();
        context.printer.line(&cells.join(separator))?;
    }
    Ok(())
}

/// A value for programs: as in JSON, text without its quotes, null as nothing.
fn raw(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A value for people.
fn readable(field: FieldType, value: &Value, now_us: i64) -> String {
    match (field, value) {
        (_, Value::Null) => "-".to_owned(),
        (FieldType::Count, Value::Number(n)) => n.as_u64().map_or_else(|| n.to_string(), text::count),
        (FieldType::Bytes, Value::Number(n)) => text::bytes(n.as_u64().unwrap_or(0)),
        (FieldType::Rate, Value::Number(n)) => text::rate(n.as_f64().unwrap_or(0.0)),
        (FieldType::Milliseconds, Value::Number(n)) => text::span_ms(n.as_i64().unwrap_or(0)),
        (FieldType::Time, Value::String(t)) => {
            text::parse_rfc3339(t).map_or_else(|| t.clone(), |us| text::age(now_us, us))
        }
        (FieldType::Boolean, Value::Bool(yes)) => if *yes { "yes" } else { "no" }.to_owned(),
        (FieldType::Texts, Value::Array(texts)) if texts.is_empty() => "-".to_owned(),
        (FieldType::Texts, Value::Array(texts)) => texts.iter().map(raw).collect::<Vec<_>>().join(", "),
        (_, Value::String(text)) if text.is_empty() => "-".to_owned(),
        (_, other) => raw(other),
    }
}

fn is_number(field: FieldType) -> bool {
    matches!(field, FieldType::Count | FieldType::Bytes | FieldType::Rate | FieldType::Milliseconds)
}
