// The folders of this computer: add, edit, pause, remove, and their errors.

import { Button, Card, Group, Loader, Modal, Stack, Table, Text } from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import {
  IconAlertTriangle,
  IconHistory,
  IconPencil,
  IconPlus,
  IconTrash,
} from "@tabler/icons-react";
import { useState } from "react";
import { Link, useSearchParams } from "react-router";

import type { Folder } from "../api/model";
import { useFolderErrors, useStatus } from "../api/queries";
import { count, counted, visibleName } from "../lib/format";
import { Copy, Facts, FileName, Id, Page, ErrorBox, When } from "../parts/basics";
import { FolderCard } from "../parts/folder_card";
import { AddFolderModal, EditFolderModal, RemoveFolder, useExcludes } from "../parts/folder_forms";

/** Number of errors shown at a time. */
const SHOWN = 200;

function Errors({ folder, onClose }: { folder: Folder; onClose: () => void }) {
  const errors = useFolderErrors(folder.id, true);
  const [shown, setShown] = useState(SHOWN);
  const all = errors.data ?? [];
  const text = all.map((one) => `${one.path}\t${one.error}\t${one.since ?? ""}`).join("\n");
  return (
    <Modal
      opened
      onClose={onClose}
      size="xl"
      title={`Files of ${visibleName(folder.name)} that could not be read`}
    >
      <Text size="sm" c="dimmed">
        Snapshots contain these files as they were when they could last be read.
      </Text>
      {errors.isPending && <Loader aria-label="Loading" />}
      <ErrorBox error={errors.error} />
      {errors.data && all.length === 0 && <Text mt="sm">All files can be read now.</Text>}
      {all.length > 0 && (
        <>
          <Group justify="flex-end">
            <Copy text={text} what="the list" />
          </Group>
          <div className="scroll" tabIndex={0} role="group" aria-label="Errors">
            <Table>
              <Table.Thead>
                <Table.Tr>
                  <Table.Th>File</Table.Th>
                  <Table.Th>Reason</Table.Th>
                  <Table.Th>Since</Table.Th>
                </Table.Tr>
              </Table.Thead>
              <Table.Tbody>
                {all.slice(0, shown).map((one) => (
                  <Table.Tr key={one.path}>
                    <Table.Td>
                      <FileName name={one.path} />
                    </Table.Td>
                    <Table.Td>
                      <FileName name={one.error} />
                    </Table.Td>
                    <Table.Td style={{ whiteSpace: "nowrap" }}>
                      <When at={one.since} />
                    </Table.Td>
                  </Table.Tr>
                ))}
              </Table.Tbody>
            </Table>
          </div>
          {all.length > shown && (
            <Button mt="sm" onClick={() => setShown(shown + SHOWN)}>
              Show more of {count(all.length)}
            </Button>
          )}
        </>
      )}
    </Modal>
  );
}

function More({ folder, onErrors }: { folder: Folder; onErrors: () => void }) {
  const [isEditing, editing] = useDisclosure();
  const [isRemoving, removing] = useDisclosure();
  return (
    <>
      <Button leftSection={<IconPencil size={18} />} onClick={editing.open}>
        Edit
      </Button>
      <Button
        component={Link}
        to={`/restore?folder=${encodeURIComponent(folder.id)}`}
        leftSection={<IconHistory size={18} />}
      >
        Snapshots
      </Button>
      {folder.error_count > 0 && (
        <Button leftSection={<IconAlertTriangle size={18} />} onClick={onErrors}>
          {counted(folder.error_count, "error")}
        </Button>
      )}
      <Button leftSection={<IconTrash size={18} />} onClick={removing.open}>
        Remove
      </Button>
      <EditFolderModal folder={folder} isOpen={isEditing} onClose={editing.close} />
      <RemoveFolder folder={folder} isOpen={isRemoving} onClose={removing.close} />
    </>
  );
}

function Details({ folder }: { folder: Folder }) {
  const exclude = useExcludes(folder.id);
  return (
    <Facts
      facts={[
        ["Folder id", <Id key="id" id={folder.id} what="the folder id" />],
        [
          "Newest snapshot",
          folder.manifest_cid ? (
            <Id key="cid" id={folder.manifest_cid} what="the manifest's CID" />
          ) : (
            "none yet"
          ),
        ],
        [
          "Excluded",
          exclude === undefined
            ? "…"
            : exclude.length === 0
              ? "nothing"
              : exclude.map(visibleName).join(", "),
        ],
        [
          "Left out",
          folder.left_out?.length
            ? folder.left_out
                .map((dir) => `${visibleName(dir.path)} (${visibleName(dir.reason)})`)
                .join(", ")
            : "nothing",
        ],
        ["Last scan", <When key="scan" at={folder.last_scan} />],
        [
          "Directories watched",
          folder.watched_dirs < folder.dirs_to_watch
            ? `${count(folder.watched_dirs)} of ${count(folder.dirs_to_watch)}`
            : "all",
        ],
        [
          "Changes noticed",
          folder.is_polled
            ? `by a scan every minute, because the file system (${folder.file_system}) does not report every change`
            : "when they are saved",
        ],
      ]}
    />
  );
}

export function Folders() {
  const status = useStatus();
  const [isAdding, adding] = useDisclosure();
  const [parameters, setParameters] = useSearchParams();
  const folders = status.data?.folders ?? [];
  const withErrors = folders.find((folder) => folder.id === parameters.get("errors"));
  return (
    <Page
      title="Folders"
      lead="The folders of this computer that are backed up."
      actions={
        <Button variant="filled" leftSection={<IconPlus size={18} />} onClick={adding.open}>
          Add a folder
        </Button>
      }
    >
      {status.isPending && <Loader aria-label="Loading" />}
      {status.isError && !status.data && <ErrorBox error={status.error} />}
      {status.data && folders.length === 0 && (
        <Card withBorder>
          <Stack align="flex-start">
            <Text>No folder of this computer is backed up.</Text>
          </Stack>
        </Card>
      )}
      {folders.map((folder) => (
        <Stack key={folder.id} gap={0}>
          <FolderCard folder={folder}>
            <More folder={folder} onErrors={() => setParameters({ errors: folder.id })} />
          </FolderCard>
          <details style={{ padding: "8px 4px" }}>
            <summary style={{ cursor: "pointer" }}>Details</summary>
            <div style={{ paddingTop: 8 }}>
              <Details folder={folder} />
            </div>
          </details>
        </Stack>
      ))}
      <AddFolderModal isOpen={isAdding} onClose={adding.close} />
      {withErrors && <Errors folder={withErrors} onClose={() => setParameters({})} />}
    </Page>
  );
}
