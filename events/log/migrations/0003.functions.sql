-- The last position whose time is not after `instant`, 0 if there is none. Times never fall along
-- the positions, so halving finds it without an index on time.
create function log.position_at(instant timestamptz) returns bigint
language plpgsql stable as $position_at$
declare
    v_low bigint := 0;
    v_high bigint;
    v_middle bigint;
begin
    select coalesce(max(l.position), 0) into v_high from log.log l;
    while v_low < v_high loop
        v_middle := (v_low + v_high + 1) / 2;
        if (select l.time <= instant from log.log l where l.position = v_middle) then
            v_low := v_middle;
        else
            v_high := v_middle - 1;
        end if;
    end loop;
    return v_low;
end
$position_at$;

-- Make this another log: called once after a restore, before anybody appends. Every consumer whose
-- cursor belongs to the old log then re-seeds instead of skipping what the restore lost.
create function log.renew_identity() returns uuid language sql volatile as $renew_identity$
    update log.log_identity set log_id = gen_random_uuid(), since = now() returning log_id
$renew_identity$;
