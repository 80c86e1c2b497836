-- Blobs of which a bad block was seen: their content counts as not stored when it is published again.
CREATE TABLE damaged_blobs (
  key TEXT PRIMARY KEY REFERENCES blobs (key) ON DELETE CASCADE,
  offset INTEGER NOT NULL,
  at TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Which catalog this is: the store that belongs to it has the same id.
CREATE TABLE identity (id TEXT NOT NULL CHECK (length(id) = 32)) STRICT;
INSERT INTO identity VALUES (lower(hex(randomblob(16))));
