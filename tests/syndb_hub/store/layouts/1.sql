BEGIN TRANSACTION;
CREATE TABLE api_tokens (
	id VARCHAR(16) NOT NULL,
	name VARCHAR(100) NOT NULL,
	secret_sha256 VARCHAR(64) NOT NULL,
	scopes JSON NOT NULL,
	created_at DATETIME NOT NULL,
	expires_at DATETIME NOT NULL,
	revoked_at DATETIME,
	PRIMARY KEY (id)
);
INSERT INTO "api_tokens" VALUES('aaaaaaaaaaaaaaaa','laptop','0000000000000000000000000000000000000000000000000000000000000000','["query"]','2026-01-01 12:00:00.000000','2026-01-01 12:00:00.000000',NULL);
CREATE TABLE clusters (
	id CHAR(32) NOT NULL,
	name VARCHAR(63) NOT NULL,
	peer_id VARCHAR(128) NOT NULL,
	endpoints JSON NOT NULL,
	institution VARCHAR(300) NOT NULL,
	description VARCHAR(2000) NOT NULL,
	contact_email VARCHAR(300) NOT NULL,
	software VARCHAR(100) NOT NULL,
	schema_version INTEGER NOT NULL,
	is_active BOOLEAN NOT NULL,
	registered_at DATETIME NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (name),
	UNIQUE (peer_id)
);
INSERT INTO "clusters" VALUES('00000000000000000000000000000001','worm','12D3worm','{"multiaddrs": ["/ip4/127.0.0.1/tcp/1"], "flight": "grpc+tls://a:1", "flight_certificate": "pem"}','Institut für Würmer','','','syndb 0.1.0',1,1,'2026-01-01 12:00:00.000000');
INSERT INTO "clusters" VALUES('00000000000000000000000000000002','fly','12D3fly','{"multiaddrs": ["/ip4/127.0.0.1/tcp/1"], "flight": "grpc+tls://a:1", "flight_certificate": "pem"}','Institut für Würmer','','','syndb 0.1.0',1,0,'2026-01-01 12:00:00.000000');
CREATE TABLE health_transitions (
	id INTEGER NOT NULL,
	cluster_id CHAR(32) NOT NULL,
	at DATETIME NOT NULL,
	from_state VARCHAR(16) NOT NULL,
	to_state VARCHAR(16) NOT NULL,
	cause VARCHAR(1000) NOT NULL,
	PRIMARY KEY (id),
	FOREIGN KEY(cluster_id) REFERENCES clusters (id)
);
INSERT INTO "health_transitions" VALUES(1,'00000000000000000000000000000001','2026-01-01 12:00:00.000000','unknown','healthy','');
INSERT INTO "health_transitions" VALUES(2,'00000000000000000000000000000002','2026-01-01 12:00:00.000000','unknown','healthy','');
CREATE TABLE jobs (
	id CHAR(32) NOT NULL,
	owner VARCHAR(100) NOT NULL,
	status VARCHAR(16) NOT NULL,
	"query" TEXT NOT NULL,
	scope VARCHAR(16),
	cluster_ids JSON,
	require VARCHAR(8) NOT NULL,
	created_at DATETIME NOT NULL,
	started_at DATETIME,
	finished_at DATETIME,
	error JSON,
	provenance JSON,
	rows BIGINT,
	result_bytes BIGINT,
	result_sha256 VARCHAR(64),
	PRIMARY KEY (id)
);
INSERT INTO "jobs" VALUES('00000000000000000000000000000003','aaaaaaaaaaaaaaaa','completed','SELECT COUNT(*) FROM neurons',NULL,NULL,'any','2026-01-01 12:00:00.000000',NULL,'2026-01-01 12:00:00.000000',NULL,NULL,1,NULL,NULL);
CREATE TABLE schema_version (
	version INTEGER NOT NULL
);
INSERT INTO "schema_version" VALUES(1);
CREATE INDEX ix_jobs_owner ON jobs (owner);
CREATE INDEX ix_jobs_status ON jobs (status);
CREATE INDEX ix_health_transitions_cluster_id ON health_transitions (cluster_id);
COMMIT;
