// The word that the UI shows for each state, and its explanation.

/** The colour class of a state. */
export type Tone = "good" | "busy" | "warn" | "bad" | "quiet";

/** The word for a state and its explanation. */
export interface Word {
  word: string;
  meaning: string;
  tone: Tone;
}

const FOLDER: Record<string, Word> = {
  idle: {
    word: "Idle",
    meaning: "Every change is in a snapshot. New changes are noticed immediately.",
    tone: "good",
  },
  scanning: {
    word: "Scanning",
    meaning: "Files are being compared with the last snapshot.",
    tone: "busy",
  },
  waiting: {
    word: "Waiting",
    meaning: "Files are changing. A snapshot is made when the changes stop.",
    tone: "busy",
  },
  publishing: { word: "Publishing", meaning: "A new snapshot is being made.", tone: "busy" },
  paused: {
    word: "Paused",
    meaning: "No new snapshots are made until the folder is resumed.",
    tone: "quiet",
  },
  alarm: {
    word: "Alarm",
    meaning:
      "Backups of this folder have stopped: the folder is missing, empty or a different directory. Somebody has to check it.",
    tone: "bad",
  },
  error: {
    word: "Error",
    meaning: "The folder cannot be backed up at the moment. Archivist retries automatically.",
    tone: "bad",
  },
};

const SOURCE: Record<string, Word> = {
  starting: { word: "Starting", meaning: "The source has not been checked yet.", tone: "busy" },
  idle: {
    word: "Idle",
    meaning: "Every snapshot that the source has offered is stored here.",
    tone: "good",
  },
  polling: {
    word: "Polling",
    meaning: "The source is being checked for new snapshots.",
    tone: "busy",
  },
  pulling: { word: "Pulling", meaning: "A new snapshot is being pulled.", tone: "busy" },
  failed: {
    word: "Failed",
    meaning:
      "The source cannot be reached, or a snapshot cannot be pulled. Archivist retries automatically.",
    tone: "bad",
  },
  refused: {
    word: "Refused",
    meaning:
      "The snapshots that the source offers do not continue its earlier ones. Nothing is pulled until somebody accepts the source.",
    tone: "bad",
  },
  disabled: { word: "Disabled", meaning: "The backup server is switched off.", tone: "quiet" },
};

const unknown = (state: string): Word => ({ word: state, meaning: "", tone: "quiet" });

/** Returns the word for the state of a folder. */
export const folderWord = (state: string): Word => FOLDER[state] ?? unknown(state);

/** Returns the word for the state of a source. */
export const sourceWord = (state: string): Word => SOURCE[state] ?? unknown(state);

/** Returns the text for a step of a backup. */
export const stepWord = (name: string): string =>
  ({
    register: "Make a snapshot",
    connect: "Connect to the backup server",
    trigger: "Notify the backup server",
    acknowledge: "Wait for its confirmation",
  })[name] ?? name;
