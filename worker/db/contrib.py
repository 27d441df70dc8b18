"""Extensions that a server may have or not: their functions, where they are installed and ours to call."""

from sqlalchemy import Connection, text


def extension_function(connection: Connection, extension: str, function: str, argument: str) -> str | None:
    """Give how a function of an extension is called, by its argument's type; None where it is not to be had.

    It must belong to the extension: another of its name may be anybody's, and we are the tables' owner.
    """
    found = connection.execute(
        text("""
            SELECT quote_ident(n.nspname) || '.' || quote_ident(p.proname)
            FROM pg_extension e
            JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
                 AND d.deptype = 'e' AND d.classid = 'pg_proc'::regclass
            JOIN pg_proc p ON p.oid = d.objid JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE e.extname = :extension AND p.proname = :function
              AND oidvectortypes(p.proargtypes) = :argument
              AND has_function_privilege(p.oid, 'EXECUTE') AND has_schema_privilege(n.oid, 'USAGE')"""),
        {"extension": extension, "function": function, "argument": argument},
    )
    return found.scalar_one_or_none()
