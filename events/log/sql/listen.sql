-- Hear what notify.sql tells.
listen log_head
