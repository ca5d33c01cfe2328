-- Append a group of commands: contract A's one call, one round trip, one transaction.
--
-- Arrays with one prefix are columns of one relation, their rows in the commands' order:
--   c_  commands (their number is their place, from 1); c_offset counts the events before them
--   r_  versions read, written streams included     e_  events
--   n_  needs of claims; x_ further holders whose rows a need leaves out of account
--   f_  effects of claims; f_mode null takes the row away
-- Times are the caller's, already rising along the group; they are lifted to the log's last time.
--
-- Answers one row for each command that is not accepted, and one row 'accepted' with the first new
-- position and the log's last time before, if any command is. Deferred commands overlap an earlier
-- one of the group: the caller sends them again.
create function log.append_group(
    c_principal text[], c_key text[], c_mac bytea[], c_answer bytea[], c_time timestamptz[],
    c_count int[], c_offset int[],
    r_command int[], r_stream text[], r_version int[],
    e_command int[], e_stream text[], e_version int[], e_name text[], e_schema smallint[],
    e_payload bytea[], e_time timestamptz[], e_actor text[], e_id uuid[], e_correlation text[],
    e_causation text[], e_addressee text[],
    n_command int[], n_key text[], n_kind text[], n_holder text[], n_amount bigint[],
    n_limit bigint[], n_mode text[], x_need int[], x_holder text[],
    f_command int[], f_key text[], f_holder text[], f_mode text[], f_amount bigint[]
) returns table (
    command int, outcome text, first bigint, count int, instant timestamptz, answer bytea,
    subject text, holder text, mode text, expected int, actual int
) language plpgsql volatile as $append_group$
#variable_conflict use_column
declare
    v_commands constant int := cardinality(c_key);
    v_refused int[] := '{}';
    v_base bigint;
    v_time timestamptz;
    v_row record;
begin
    -- Every statement below must see what was committed before the lock was had.
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'log.append_group needs READ COMMITTED';
    end if;
    -- The one lock of the log, held through the commit, which is in the same round trip: so
    -- positions become visible in their order, and nothing read changes before the commit.
    perform pg_advisory_xact_lock(7301);

    -- Keys that are known: the same body gets its answer, another is refused.
    for v_row in
        select c.number::int as number, a.*, a.body_mac = c.mac as same
        from unnest(c_principal, c_key, c_mac) with ordinality c (principal, key, mac, number),
            lateral (
                select * from log.answers a
                where a.principal = c.principal and a.key = c.key offset 0
            ) a
    loop
        v_refused := v_refused || v_row.number;
        if v_row.same then
            return query select v_row.number, 'repeated', v_row.first, v_row.count, v_row.time,
                v_row.answer, null::text, null::text, null::text, null::int, null::int;
        else
            return query select v_row.number, 'key_reused', null::bigint, null::int,
                null::timestamptz, null::bytea, v_row.key, null::text, null::text, null::int,
                null::int;
        end if;
    end loop;

    -- Streams that are not at the version that was read.
    for v_row in
        select distinct on (r.command) r.command, r.stream, r.version, head.version as actual
        from unnest(r_command, r_stream, r_version) with ordinality
                r (command, stream, version, number),
            lateral (
                select coalesce((
                    select l.version from log.log l
                    where l.stream = r.stream order by l.version desc limit 1
                ), 0) as version offset 0
            ) head
        where head.version <> r.version
        order by r.command, r.number
    loop
        continue when v_row.command = any (v_refused);
        v_refused := v_refused || v_row.command;
        return query select v_row.command, 'conflict', null::bigint, null::int, null::timestamptz,
            null::bytea, v_row.stream, null::text, null::text, v_row.version, v_row.actual;
    end loop;

    -- Commands that overlap an earlier one of the group wait for the next: they read a stream that
    -- it writes, come under the same key, or need or change a claim that it changes. No unique
    -- index would catch the first of these. Claims that are shared do not overlap.
    if v_commands > 1 then
        for v_row in
            select r.command
            from unnest(r_command, r_stream) r (command, stream)
            join unnest(e_command, e_stream) e (command, stream)
                on e.stream = r.stream and e.command < r.command
            where e.command <> all (v_refused)
            union
            select b.number::int
            from (
                select number,
                    min(number) over (partition by principal, key) as earliest
                from unnest(c_principal, c_key) with ordinality c (principal, key, number)
                where number <> all (v_refused)
            ) b
            where b.earliest < b.number
            union
            select b.command
            from unnest(f_command, f_key, f_holder, f_mode) a (command, key, holder, mode)
            join unnest(f_command, f_key, f_holder, f_mode) b (command, key, holder, mode)
                on b.key = a.key and b.command > a.command
            where (b.holder = a.holder or a.mode = 'exclusive') and a.command <> all (v_refused)
            union
            select n.command
            from unnest(f_command, f_key, f_mode) f (command, key, mode)
            join unnest(n_command, n_key, n_kind) n (command, key, kind)
                on n.key = f.key and n.command > f.command
            where (f.mode = 'exclusive' or n.kind = 'free') and f.command <> all (v_refused)
        loop
            continue when v_row.command = any (v_refused);
            v_refused := v_refused || v_row.command;
            return query select v_row.command, 'deferred', null::bigint, null::int,
                null::timestamptz, null::bytea, null::text, null::text, null::text, null::int,
                null::int;
        end loop;
    end if;

    -- Claims held by others, who are named. Amounts count those of earlier commands of the group.
    -- If such a command changes the key, which could only help, the refusal is not final: deferred.
    if cardinality(n_command) > 0 then
        for v_row in
            select distinct on (n.command) n.command, n.key, obstacle.holder, obstacle.mode,
                exists (
                    select from unnest(f_command, f_key) f (command, key)
                    where f.key = n.key and f.command < n.command
                        and f.command <> all (v_refused)
                ) as touched
            from unnest(n_command, n_key, n_kind, n_holder, n_amount, n_limit, n_mode)
                    with ordinality n (command, key, kind, holder, amount, room, mode, number),
                lateral (
                    select n.holder, n.mode where n.kind = 'never'
                    union all
                    (
                        select c.holder, c.mode from log.claims c
                        where n.kind = 'free' and c.key = n.key and c.holder <> n.holder
                            and not exists (
                                select from unnest(x_need, x_holder) x (need, holder)
                                where x.need = n.number and x.holder = c.holder
                            )
                        order by c.holder limit 1
                    )
                    union all
                    (
                        select c.holder, c.mode from log.claims c
                        where n.kind = 'open' and c.key = n.key and c.mode = 'exclusive'
                            and c.holder <> n.holder
                            and not exists (
                                select from unnest(x_need, x_holder) x (need, holder)
                                where x.need = n.number and x.holder = c.holder
                            )
                        order by c.holder limit 1
                    )
                    union all
                    select coalesce(others.largest, n.holder), 'amount'
                    from (
                        select coalesce(sum(c.amount), 0) as total,
                            (array_agg(c.holder order by c.amount desc, c.holder desc))[1]
                                as largest
                        from log.claims c
                        where n.kind = 'room' and c.key = n.key and c.holder <> n.holder
                            and not exists (
                                select from unnest(x_need, x_holder) x (need, holder)
                                where x.need = n.number and x.holder = c.holder
                            )
                    ) others
                    where n.kind = 'room' and others.total + n.amount + (
                        select coalesce(sum(f.amount), 0)
                        from unnest(f_command, f_key, f_amount) f (command, key, amount)
                        where f.key = n.key and f.command < n.command
                            and f.command <> all (v_refused)
                    ) > n.room
                ) obstacle (holder, mode)
            where n.command <> all (v_refused)
            order by n.command, n.number
        loop
            v_refused := v_refused || v_row.command;
            if v_row.touched then
                return query select v_row.command, 'deferred', null::bigint, null::int,
                    null::timestamptz, null::bytea, null::text, null::text, null::text, null::int,
                    null::int;
            else
                return query select v_row.command, 'claimed', null::bigint, null::int,
                    null::timestamptz, null::bytea, v_row.key, v_row.holder, v_row.mode,
                    null::int, null::int;
            end if;
        end loop;
    end if;

    if cardinality(v_refused) = v_commands then
        return;
    end if;

    -- The log's end, which nobody moves while the lock is held; no time yet leaves the commands'.
    select l.position, l.time into v_base, v_time from log.log l order by l.position desc limit 1;
    v_base := coalesce(v_base, 0);

    if cardinality(v_refused) = 0 then
        insert into log.log (position, time, command, version, schema, stream, name, actor,
            correlation, causation, addressee, payload)
        select v_base + e.number, greatest(v_time, e.time), e.id, e.version, e.schema, e.stream,
            e.name, e.actor, e.correlation, e.causation, e.addressee, e.payload
        from unnest(e_stream, e_version, e_name, e_schema, e_payload, e_time, e_actor, e_id,
                e_correlation, e_causation, e_addressee) with ordinality
            e (stream, version, name, schema, payload, time, actor, id, correlation, causation,
                addressee, number);
        insert into log.answers (principal, key, body_mac, answer, first, count, time)
        select c.principal, c.key, c.mac, c.answer, v_base + 1 + c.before, c.count,
            greatest(v_time, c.time)
        from unnest(c_principal, c_key, c_mac, c_answer, c_count, c_offset, c_time)
            c (principal, key, mac, answer, count, before, time);
    else
        insert into log.log (position, time, command, version, schema, stream, name, actor,
            correlation, causation, addressee, payload)
        select v_base + row_number() over (order by e.number), greatest(v_time, e.time), e.id,
            e.version, e.schema, e.stream, e.name, e.actor, e.correlation, e.causation,
            e.addressee, e.payload
        from unnest(e_command, e_stream, e_version, e_name, e_schema, e_payload, e_time, e_actor,
                e_id, e_correlation, e_causation, e_addressee) with ordinality
            e (command, stream, version, name, schema, payload, time, actor, id, correlation,
                causation, addressee, number)
        where e.command <> all (v_refused);
        insert into log.answers (principal, key, body_mac, answer, first, count, time)
        select c.principal, c.key, c.mac, c.answer,
            v_base + 1 + sum(c.count) over (order by c.number) - c.count, c.count,
            greatest(v_time, c.time)
        from unnest(c_principal, c_key, c_mac, c_answer, c_count, c_time) with ordinality
            c (principal, key, mac, answer, count, time, number)
        where c.number <> all (v_refused);
    end if;

    if cardinality(f_command) > 0 then
        -- A holder gives back what is its own, and no other's.
        delete from log.claims where ctid = any (array(
            select held.ctid
            from unnest(f_command, f_key, f_holder, f_mode) f (command, key, holder, mode),
                lateral (
                    select c.ctid from log.claims c
                    where c.key = f.key and c.holder = f.holder offset 0
                ) held
            where f.mode is null and f.command <> all (v_refused)
        ));
        insert into log.claims as held (key, holder, mode, amount)
        select f.key, f.holder, f.mode, f.amount
        from unnest(f_command, f_key, f_holder, f_mode, f_amount)
            f (command, key, holder, mode, amount)
        where f.mode is not null and f.command <> all (v_refused)
        on conflict (key, holder) do update set mode = excluded.mode, amount = excluded.amount
        where (held.mode, held.amount) is distinct from (excluded.mode, excluded.amount);
    end if;

    return query select 0, 'accepted', v_base + 1, null::int, v_time, null::bytea, null::text,
        null::text, null::text, null::int, null::int;
end
$append_group$;
