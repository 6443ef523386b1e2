// Short names for the types of the API. `npm run api` generates the types from
// the program's OpenAPI document. Types that the document leaves open are
// declared here.

import type { components } from "./schema";

type Schemas = components["schemas"];

export type NoticeLevel = Schemas["NoticeLevel"];
export type Notice = Schemas["Notice"];
export type Integrity = Schemas["Integrity"];
export type LastVerification = Schemas["LastVerification"];
export type VerifyResult = Schemas["VerifyResult"];
export type Storage = Schemas["Storage"];
export type FileError = Schemas["FileError"];
export type Folder = Schemas["Folder"];
export type Pull = Schemas["Pull"];
export type Source = Schemas["Source"];
export type Status = Schemas["Status"];
export type Snapshot = Schemas["Snapshot"];
export type ListedEntry = Schemas["ListedEntry"];
export type ReceiptChain = Schemas["ReceiptChain"];
export type Receipt = Schemas["Receipt"];
export type Step = Schemas["Step"];
export type Registered = Schemas["Registered"];
export type BackupNowReport = Schemas["BackupNowReport"];
export type PairingCode = Schemas["PairingCode"];
export type PairingState = Schemas["PairingState"];
// The document marks lists with a default as optional, but answers always have them.
export type JoinReport = Required<Schemas["JoinReport"]>;
export type RestoreReport = Required<Schemas["RestoreReport"]>;
export type Job = Schemas["Job"];
export type PruneDecision = Schemas["PruneDecision"];
export type PruneReport = Schemas["PruneReport"];
export type Peer = Schemas["Peer"];
export type ConfigChanged = Schemas["ConfigChanged"];
export type AddFolder = Schemas["AddFolder"];
export type NewSource = Schemas["NewSource"];
export type RestoreRequest = Schemas["RestoreRequest"];
export type Session = Schemas["Session"];
export type SignedIn = Schemas["SignedIn"];
export type DownloadLink = Schemas["DownloadLink"];
export type Directory = Schemas["Directory"];
export type Directories = Schemas["Directories"];
export type LeftOut = Schemas["LeftOut"];
export type ExcludePreview = Schemas["ExcludePreview"];
export type FileVersion = Schemas["FileVersion"];
export type Found = Schemas["Found"];
export type JournalEntry = Schemas["JournalEntry"];
export type LogLine = Schemas["LogLine"];
export type TrafficDay = Schemas["TrafficDay"];

/** An element of `/config/keys`. */
export interface KeyInfo {
  path: string;
  type: string;
  item_type?: string | null;
  required: boolean;
  default?: unknown;
  min?: number | null;
  max?: number | null;
  unit?: string | null;
  choices?: string[] | null;
  allowed: string;
  description: string;
  apply: "live" | "needs_restart";
}
