-- Secrets that admins gave (passwords of fence agents, of SSH), each sealed on its own; events and
-- states hold the id alone. A row that is deleted is forgotten.
create table vault.secrets (
    id uuid primary key,
    sealed bytea not null check (octet_length(sealed) between 28 and 8192),
    made timestamptz not null default now()
);
