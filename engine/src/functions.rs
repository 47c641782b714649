//! Which functions a query may call.

/// Table functions that make rows from their arguments alone.
const TABLE_FUNCTIONS: &[&str] = &[
    "generate_series",
    "icu_calendar_names",
    "json_each",
    "json_tree",
    "pg_timezone_names",
    "range",
    "regexp_split_to_table",
    "repeat",
    "repeat_row",
    "unnest",
];

/// Functions that see or change more than their arguments: settings, variables, logs, plans, sequences, engine
/// memory, or tables named in a string.
const FORBIDDEN: &[&str] = &[
    "add_parquet_key",
    "arrow_scan",
    "arrow_scan_dumb",
    "checkpoint",
    "col_description",
    "combine",
    "current_connection_id",
    "current_query",
    "current_query_id",
    "current_schemas",
    "current_setting",
    "current_transaction_id",
    "currval",
    "disable_logging",
    "enable_logging",
    "finalize",
    "force_checkpoint",
    "format_pg_type",
    "format_type",
    "get_block_size",
    "getenv",
    "getvariable",
    "glob",
    "histogram_values",
    "json_deserialize_sql",
    "json_execute_serialized_sql",
    "json_serialize_plan",
    "json_serialize_sql",
    "map_to_pg_oid",
    "nextval",
    "obj_description",
    "parquet_bloom_probe",
    "parse_duckdb_log_message",
    "query",
    "query_table",
    "seq_scan",
    "set_config",
    "setseed",
    "shobj_description",
    "sniff_csv",
    "stats",
    "txid_current",
    "which_secret",
    "write_log",
];

/// Families of the same kind. `__internal_` functions trust their arguments.
const FORBIDDEN_PREFIXES: &[&str] =
    &["__internal_", "aap_", "duckdb_", "has_", "http", "inet_", "parquet_", "pg_", "pragma_", "read_"];

/// Names of forbidden families that are harmless after all.
const HARMLESS: &[&str] = &["pg_size_pretty", "pg_sleep", "pg_typeof", "pg_timezone_names"];

/// Whether a query may have this function in its FROM.
pub(crate) fn is_allowed_table_function(name: &str) -> bool {
    TABLE_FUNCTIONS.contains(&name)
}

/// Whether a query must not call this function in an expression.
pub(crate) fn is_forbidden(name: &str) -> bool {
    let in_family =
        FORBIDDEN_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !HARMLESS.contains(&name);
    in_family || FORBIDDEN.contains(&name)
}

/// The first word of a statement after comments, upper case: what it is.
pub(crate) fn first_word(sql: &str) -> String {
    let mut rest = sql.trim_start();
    loop {
        let after_comment = if let Some(comment) = rest.strip_prefix("--") {
            comment.split_once('\n').map(|(_, after)| after)
        } else if let Some(comment) = rest.strip_prefix("/*") {
            comment.split_once("*/").map(|(_, after)| after)
        } else {
            break;
        };
        rest = after_comment.unwrap_or_default().trim_start();
    }
    rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').take(32).collect::<String>().to_uppercase()
}
