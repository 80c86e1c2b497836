-- SQLite looks for rows that still refer to a blob whenever one is forgotten: without these it reads all models and files each time.
CREATE INDEX models_by_manifest ON models (manifest);
CREATE INDEX models_by_delta ON models (delta) WHERE delta IS NOT NULL;
CREATE INDEX files_by_blob ON files (blob) WHERE blob IS NOT NULL;
