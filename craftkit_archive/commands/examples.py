"""Examples for every command, which end its help; a test parses each with the commands themselves."""

# By the words of the command; empty for the program itself. A line that begins with # describes the next ones.
EXAMPLES = {
    "": """
        craftkit-archive --archive /srv/archive status
        craftkit-archive --json verify --due 30d > verify.ndjson
    """,
    "init": """
        craftkit-archive --archive /srv/archive init
        # Use a mirror of the bucket as the store
        craftkit-archive --archive /srv/archive init --store /mnt/mirror
        craftkit-archive init --store s3://craftkit-renders/prod --endpoint-url https://s3.example.org
    """,
    "rebuild": """
        craftkit-archive rebuild --projects projects.json --keys keys.json --renders renders.ndjson
    """,
    "backup": """
        craftkit-archive backup /backup/archive-2026-01-31.db
    """,
    "config": """
        craftkit-archive config init
        craftkit-archive --config /etc/craftkit-archive.toml config show
    """,
    "config init": """
        craftkit-archive config init
        craftkit-archive --config /etc/craftkit-archive.toml config init
    """,
    "config show": """
        craftkit-archive config show
        craftkit-archive --json config show | jq 'select(.origin)'
    """,
    "config schema": """
        craftkit-archive config schema > craftkit-archive.schema.json
    """,
    "restore": """
        craftkit-archive restore archive-2026-01-31.db
        # On a new machine, where the store is still empty
        craftkit-archive restore --new-store archive-2026-01-31.db
    """,
    "nightly": """
        craftkit-archive nightly
        # What it would do
        craftkit-archive --config /etc/craftkit-archive.toml nightly --dry-run
        craftkit-archive nightly --quiet --time-limit 5h --skip backup
    """,
    "dispose": """
        craftkit-archive dispose --due --reason "Schedule of 2026" --dry-run
        craftkit-archive dispose --due --reason "Schedule of 2026" --certificate disposal.html --sign ~/.ssh/id_ed25519
        craftkit-archive dispose --ids ids.txt --reason "Request 4711"
    """,
    "doctor": """
        craftkit-archive doctor
        craftkit-archive --json doctor | jq 'select(.fix)'
    """,
    "import": """
        craftkit-archive import projects projects.json
        craftkit-archive import renders renders.ndjson.gz --rejects rejects.ndjson
        craftkit-archive import keys postgresql://craftkit@db.example.org/craftkit
        # What was made this year; try it first
        craftkit-archive import renders postgresql:///craftkit --where "created_at >= '2026-01-01'" --dry-run
    """,
    "fetch": """
        craftkit-archive fetch /mnt/mirror
        craftkit-archive fetch s3://craftkit-renders --endpoint-url https://s3.example.org --bwlimit 5M
        # From the live API, one project
        CRAFTKIT_API_KEY=ck_live_… craftkit-archive fetch https://api.craftkit.dev --project acme
        # Record files that are in the archive's own store already
        craftkit-archive fetch
    """,
    "verify": """
        craftkit-archive verify
        # Every night: a part of what was not read for 30 days, for two hours at most
        craftkit-archive verify --due 30d --time-limit 2h --report report.html
        # A project, and whether its PDFs open
        craftkit-archive verify --project acme --level pdf
    """,
    "repair": """
        craftkit-archive repair /mnt/mirror --dry-run
        craftkit-archive repair acme.zip
        # Only what is damaged now
        craftkit-archive renders list --damaged --format ids | craftkit-archive repair s3://craftkit-renders --ids -
    """,
    "accept": """
        craftkit-archive accept --ids lost.txt --reason "deleted at the source before 2026"
        craftkit-archive accept --list
        craftkit-archive accept --revoke --ids lost.txt
    """,
    "quarantine": """
        craftkit-archive quarantine list
        craftkit-archive quarantine drop --all
    """,
    "quarantine list": """
        craftkit-archive quarantine list
        craftkit-archive quarantine list -v
    """,
    "quarantine restore": """
        craftkit-archive quarantine restore 0198c83a-08ad-7768-bfed-730814523e8e
    """,
    "quarantine drop": """
        craftkit-archive quarantine drop 0198c83a-08ad-7768-bfed-730814523e8e
        craftkit-archive quarantine drop --all --yes
    """,
    "export": """
        craftkit-archive export /mnt/usb/acme --project acme --since 2026-01-01
        # A bag for a records office
        craftkit-archive export acme.zip --format bagit --project acme --bag-info Source-Organization="Acme Ltd"
        # Into a tar elsewhere
        craftkit-archive export - --format tar --project acme | ssh office 'cat > acme.tar'
        craftkit-archive export out --ids ids.txt --name "{project_slug}/{id}.pdf" --dry-run
    """,
    "export-check": """
        craftkit-archive export-check /mnt/usb/acme
        craftkit-archive export-check acme.zip --allowed-signers allowed_signers
    """,
    "keys": """
        craftkit-archive keys list
        craftkit-archive keys create --project acme --name "records office"
    """,
    "keys list": """
        craftkit-archive keys list
        # What nobody has used for three months
        craftkit-archive keys list --project acme --unused 90d
    """,
    "keys create": """
        craftkit-archive keys create --project acme --name "records office"
        # Into a file that only its owner reads
        (umask 077; craftkit-archive keys create --project acme > acme.key)
    """,
    "keys revoke": """
        craftkit-archive keys revoke 0198c83a-08ad-7768-bfed-730814523e8e
        # By the prefix that a log shows
        craftkit-archive keys revoke ck_live_4f9a
    """,
    "status": """
        craftkit-archive status
        craftkit-archive status --nagios
        # While a fetch or verify runs in another window
        craftkit-archive status --watch 5
        craftkit-archive --json status | jq 'select(.type == "summary") | .counts'
    """,
    "renders": """
        craftkit-archive renders list --damaged
    """,
    "renders list": """
        craftkit-archive renders list --damaged
        craftkit-archive renders list --project acme --since 2026-01-01 --format csv > renders.csv
        craftkit-archive renders list --not-stored --format ids | craftkit-archive fetch /mnt/mirror --ids -
    """,
    "findings": """
        craftkit-archive findings list
    """,
    "findings list": """
        craftkit-archive findings list
        craftkit-archive findings list --run 12
        craftkit-archive findings list --project acme --state damaged --format ids
    """,
    "runs": """
        craftkit-archive runs list --command verify --limit 10
        craftkit-archive runs show 12
    """,
    "runs list": """
        craftkit-archive runs list
        craftkit-archive runs list --command verify --limit 10 --format csv
    """,
    "runs show": """
        craftkit-archive runs show 12
    """,
    "report": """
        craftkit-archive report
        craftkit-archive report 12 -o report.html
        # For Prometheus' textfile collector
        craftkit-archive report -o /var/lib/node_exporter/craftkit-archive.prom
    """,
    "seal": """
        craftkit-archive seal
        craftkit-archive seal --project acme --check 9f2c…
        # Signed, and stamped by an authority
        craftkit-archive seal --sign ~/.ssh/id_ed25519 --timestamp http://tsa.example.org/tsr
    """,
    "audit": """
        craftkit-archive audit log --since 2026-01-01
        craftkit-archive audit verify
    """,
    "audit log": """
        craftkit-archive audit log --since 2026-01-01
    """,
    "audit head": """
        craftkit-archive audit head
        craftkit-archive audit head --sign ~/.ssh/id_ed25519 -o audit-head.txt
    """,
    "audit verify": """
        craftkit-archive audit verify
        craftkit-archive audit verify --head 9f2c… --access-logs /var/log/craftkit-archive
    """,
    "audit access-log": """
        craftkit-archive audit access-log /var/log/craftkit-archive/access.ndjson.1
    """,
    "retention": """
        craftkit-archive retention list
        craftkit-archive retention due
    """,
    "retention set": """
        craftkit-archive retention set --project acme --keep 10y
        craftkit-archive retention set --default --keep 6y
    """,
    "retention list": """
        craftkit-archive retention list
    """,
    "retention remove": """
        craftkit-archive retention remove --project acme
    """,
    "retention due": """
        craftkit-archive retention due
        craftkit-archive retention due --by 2026-12-31
    """,
    "hold": """
        craftkit-archive hold list
    """,
    "hold place": """
        craftkit-archive hold place --name case-17 --reason "Audit of 2026" --project acme --until 2025-12-31
    """,
    "hold list": """
        craftkit-archive hold list
    """,
    "hold release": """
        craftkit-archive hold release case-17 --reason "Audit of 2026 is over"
    """,
    "completion": """
        craftkit-archive completion install
    """,
    "completion install": """
        craftkit-archive completion install
        craftkit-archive completion install zsh --to ~/.zsh/functions
    """,
    "completion show": """
        craftkit-archive completion show fish
    """,
    "notify": """
        craftkit-archive notify test
    """,
    "notify test": """
        craftkit-archive notify test
        craftkit-archive --archive /srv/archive --json notify test
    """,
    "serve": """
        craftkit-archive serve
        craftkit-archive serve --listen 0.0.0.0:8080 --public-url https://pdfs.example.org --trusted-proxy 127.0.0.1
        # With an access log that is rotated each day and recorded in the audit log
        craftkit-archive serve --access-log /var/log/craftkit-archive/access.ndjson --audit-access daily
        # From read-only media
        craftkit-archive --archive /media/archive serve --sealed
    """,
    "quickstart": """
        craftkit-archive quickstart data/sample
        craftkit-archive --archive /tmp/try quickstart data/sample --once
    """,
}


def example_lines(path: str) -> list[str]:
    """Return the lines of a command's examples; none if it has none.

    Args:
        path: The words of the command, such as `keys list`.
    """
    return [line.strip() for line in EXAMPLES.get(path, "").strip().splitlines()]


def examples(path: str) -> str:
    """Return a command's examples as the paragraph that ends its help; empty if it has none."""
    lines = example_lines(path)
    # \b keeps click from wrapping the lines into one paragraph.
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)]) if lines else ""
