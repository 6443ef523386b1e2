// What goes over the API, by short names. The types themselves are made from
// the OpenAPI document of the program: `npm run api`.

export type NoticeLevel = "error" | "warning" | "info";
export interface Notice { level: NoticeLevel; message: string; action?: string | null }
export interface Storage { blocks: number; used_bytes: number; max_bytes?: number | null; available_bytes: number }
export interface FileError { path: string; error: string; since?: string | null }
export interface Folder {
  id: string; name: string; path: string; state: string; detail?: string | null;
  sequence?: number | null; manifest_cid?: string | null; files: number; dirs: number; bytes: number;
  pending_changes: number; backed_up_sequence?: number | null; backed_up_at?: string | null;
  last_scan?: string | null; watched_dirs: number; dirs_to_watch: number; held?: string | null;
  errors: FileError[]; error_count: number;
}
export interface Pull {
  folder_id: string; folder_name: string; sequence: number; files_done: number; files_total: number;
  bytes_done: number; bytes_total: number; started_at: string;
}
export interface Source {
  name: string; peer_id: string; manifest_server_url: string; state: string; detail?: string | null;
  last_poll?: string | null; errors: string[]; pulls: Pull[];
}
export interface Status {
  peer_id: string; addresses: string[]; version: string; data: string; folders: Folder[];
  sources: Source[]; storage: Storage; notices: Notice[];
}
export interface Snapshot {
  id: string; source: string; source_peer_id: string; folder_id: string; folder_name: string;
  sequence: number; created_at: string; received_at: string; files: number; bytes: number;
  manifest_cid: string; held?: string | null;
}
export interface ListedEntry {
  path: string; path_base64?: string | null; type: string; size_bytes?: number | null; cid?: string | null;
  target?: string | null; mode: number; mtime_ns: string; error?: string | null;
}
export interface Step { name: string; ok: boolean; detail?: string | null }
export interface Registered {
  folder_id: string; folder_name: string; sequence: number; manifest_cid: string;
  backed_up_sequence?: number | null;
}
export interface BackupNowReport { folders: Registered[]; steps: Step[] }
export interface PairingCode { code: string; expires_at: string }
export interface PairingState { state: string; expires_at?: string | null; peer_id?: string | null; detail?: string | null }
export interface JoinReport {
  name: string; peer_id: string; manifest_server_url: string; addresses: string[]; changes: string[];
  needs_restart: string[];
}
export interface RestoreReport {
  id: number; state: string; snapshot: string; entries_done: number; entries_total: number;
  bytes_done: number; bytes_total: number; in_the_way: string[]; not_set: string[]; failed: string[];
  skipped: string[]; not_found: string[]; is_cut_short: boolean; error?: string | null;
}
export interface Job {
  id: number; kind: string; state: string; progress_done: number; progress_total?: number | null;
  result?: unknown; error?: string | null; started_at?: string | null; ended_at?: string | null;
}
export interface VerifyProblem { cid: string; reason: string; concerns: string[] }
export interface VerifyResult {
  checked: number; blocks: number; read_bytes: number; problems: VerifyProblem[]; repaired: number;
}
export interface PruneDecision { snapshot: string; folder_name: string; received_at: string; reasons: string[] }
export interface PruneReport {
  dry_run: boolean; kept: PruneDecision[]; removed: PruneDecision[]; holds: string[]; freed_bytes: number;
}
export interface Peer {
  peer_id: string; name?: string | null; addresses: string[]; direction: string; rtt_ms?: number | null;
  agent?: string | null; is_allowed: boolean; connected_since: string;
}
export interface ConfigChanged { applied: boolean; needs_restart: string[] }

// Of the calls that were made for this page.
export interface Session { signed_in: boolean; csrf?: string | null }
export interface Directory { name: string; path: string }
export interface Directories { path: string; parent?: string | null; directories: Directory[]; is_cut_short: boolean }
export interface LeftOut { path: string; is_dir: boolean; files: number; bytes: number }
export interface ExcludePreview {
  files: number; bytes: number; excluded_files: number; excluded_bytes: number; excluded: LeftOut[];
  is_cut_short: boolean;
}
export interface FileVersion { snapshot: string; sequence: number; created_at: string; received_at: string; entry: ListedEntry }
export interface JournalEntry {
  id: number; at: string; level: NoticeLevel; message: string; folder?: string | null; device?: string | null;
}
export interface LogLine { id: number; at: string; level: string; text: string }
export interface KeyInfo {
  path: string; type: string; item_type?: string | null; required: boolean; default?: unknown;
  min?: number | null; max?: number | null; unit?: string | null; choices?: string[] | null;
  allowed: string; description: string; apply: "live" | "needs_restart";
}
export interface AddFolder { path: string; name?: string | null; exclude?: string[] }
export interface NewSource { name: string; manifest_server_url: string; peer_id: string; addresses?: string[] }
export interface RestoreRequest {
  snapshot?: string | null; folder?: string | null; at?: string | null; paths?: string[]; paths_base64?: string[];
  target: string; target_base64?: string | null; overwrite?: boolean; from_backup_server?: boolean;
}
