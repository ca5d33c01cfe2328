-- Append a group of commands and commit, in one round trip; see migrations/0002.append_group.sql.
select * from log.append_group(
    %b::text[], %b::text[], %b::bytea[], %b::bytea[], %b::timestamptz[], %b::int[], %b::int[],
    %b::int[], %b::text[], %b::int[],
    %b::int[], %b::text[], %b::int[], %b::text[], %b::smallint[], %b::bytea[], %b::timestamptz[],
    %b::text[], %b::uuid[], %b::text[], %b::text[], %b::text[],
    %b::int[], %b::text[], %b::text[], %b::text[], %b::bigint[], %b::bigint[], %b::text[],
    %b::int[], %b::text[],
    %b::int[], %b::text[], %b::text[], %b::text[], %b::bigint[]
)
