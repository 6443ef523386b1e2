// This computer, its backup server and its sources; pairing and connection tests.

import {
  Button,
  Group,
  List,
  Loader,
  Modal,
  SimpleGrid,
  Skeleton,
  Stack,
  Table,
  Text,
  TextInput,
} from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { IconCheck, IconPlugConnected, IconPlus, IconTrash, IconX } from "@tabler/icons-react";
import { useState } from "react";
import { useSearchParams } from "react-router";

import type { Peer, Source, Status } from "../api/model";
import {
  useAddSource,
  useConfig,
  useConnect,
  usePeers,
  useRemoveSource,
  useSetKey,
  useStatus,
  useTest,
} from "../api/queries";
import { sourceWord } from "../lib/words";
import { Confirm } from "../parts/confirm";
import { Id, Page, State, ErrorBox, When } from "../parts/basics";
import { EnterCode, ShowCode } from "../parts/pairing";
import { Qr } from "../parts/qr";
import { Receipts } from "../parts/receipts";
import { Section } from "../parts/section";

function ThisDevice({ status }: { status: Status }) {
  const first =
    status.addresses.find((address) => !/\/(127\.|::1)/.test(address)) ?? status.addresses[0];
  return (
    <Section title="This computer">
      <Group align="flex-start" justify="space-between" gap="lg">
        <Stack gap="xs" style={{ flex: 1, minWidth: 240 }}>
          <Text size="sm" c="dimmed">
            Peer id
          </Text>
          <Id id={status.peer_id} what="the peer id" whole />
          <Text size="sm" c="dimmed">
            Addresses
          </Text>
          {status.addresses.length === 0 && <Text size="sm">Not listening on any address.</Text>}
          {status.addresses.map((address) => (
            <Id key={address} id={address} what={`the address ${address}`} whole />
          ))}
        </Stack>
        {first && (
          <figure style={{ margin: 0 }}>
            <Qr text={first} label="The address of this computer as a QR code" />
            <Text
              size="xs"
              c="dimmed"
              component="figcaption"
              maw={180}
              style={{ overflowWrap: "anywhere" }}
            >
              {first.replace(/\/p2p\/.*/, "")}
            </Text>
          </figure>
        )}
      </Group>
    </Section>
  );
}

/** The steps of a connection test, each with its result and what to fix. */
function Test({ source, label }: { source?: string; label: string }) {
  const test = useTest();
  return (
    <Stack gap="xs">
      <Button
        style={{ alignSelf: "flex-start" }}
        leftSection={<IconPlugConnected size={18} />}
        loading={test.isPending}
        onClick={() => test.mutate(source)}
        aria-label={label}
      >
        Test the connection
      </Button>
      <ErrorBox error={test.error} />
      <Stack gap={4} role="status">
        {test.data?.map((step) => (
          <Group key={step.name} gap={8} wrap="nowrap" align="flex-start">
            {step.ok ? (
              <IconCheck size={18} className="ink-good" aria-label="passed" />
            ) : (
              <IconX size={18} className="ink-bad" aria-label="failed" />
            )}
            <Text size="sm" style={{ overflowWrap: "anywhere" }}>
              <b>{step.name}.</b> {step.detail}
            </Text>
          </Group>
        ))}
      </Stack>
    </Stack>
  );
}

/** Describes the connection to a peer. */
function link(peers: Peer[] | undefined, id: string | undefined): string {
  if (!peers) return "Checking the connection …";
  const peer = peers.find((one) => one.peer_id === id);
  if (!peer)
    return "Not connected at the moment. The connection is made when data has to be transferred.";
  return peer.rtt_ms == null ? "Connected." : `Connected, latency ${peer.rtt_ms.toFixed(1)} ms.`;
}

function BackupPeer({ address, peers }: { address: string; peers: Peer[] | undefined }) {
  const [isEditing, editing] = useDisclosure();
  const [isRemoving, removing] = useDisclosure();
  const [text, setText] = useState(address);
  const set = useSetKey();
  const id = /\/p2p\/([^/]+)$/.exec(address)?.[1];
  return (
    <Section title="Backup server of this computer">
      <Stack gap="sm">
        {address ? (
          <>
            <Id id={address} what="the address" whole />
            <Text size="sm">{link(peers, id)}</Text>
            <Test label="Test the connection to the backup server" />
          </>
        ) : (
          <Text>No backup server is set. Pair with one, or enter its address.</Text>
        )}
        <Group gap="xs">
          <Button
            onClick={() => {
              setText(address);
              editing.open();
            }}
          >
            {address ? "Change" : "Enter an address"}
          </Button>
          {address && (
            <Button leftSection={<IconTrash size={18} />} onClick={removing.open}>
              Remove
            </Button>
          )}
        </Group>
      </Stack>
      <Modal opened={isEditing} onClose={editing.close} title="Address of the backup server">
        <form
          onSubmit={(event) => {
            event.preventDefault();
            set.mutate(
              { key: "sync.backup_peer_address", value: text.trim() },
              { onSuccess: editing.close },
            );
          }}
        >
          <Stack>
            <TextInput
              label="Multiaddr"
              description="Must end with the peer id: /ip4/192.0.2.10/tcp/8070/p2p/16Uiu2HAm… The backup server shows its address on its Devices page."
              value={text}
              onChange={(event) => setText(event.currentTarget.value)}
              spellCheck={false}
              data-autofocus
            />
            <ErrorBox error={set.error} />
            <Group justify="flex-end">
              <Button onClick={editing.close}>Cancel</Button>
              <Button type="submit" variant="filled" loading={set.isPending}>
                Apply
              </Button>
            </Group>
          </Stack>
        </form>
      </Modal>
      <Confirm
        title="Stop backing up to this backup server?"
        yes="Remove it"
        isDangerous
        isOpen={isRemoving}
        isPending={set.isPending}
        error={set.error}
        onYes={() =>
          set.mutate({ key: "sync.backup_peer_address", value: "" }, { onSuccess: removing.close })
        }
        onClose={removing.close}
      >
        <Text>
          The backup server can no longer fetch anything from this computer. It keeps the snapshots
          that it has until its own retention rules remove them.
        </Text>
      </Confirm>
    </Section>
  );
}

function SourceRow({ source, peers }: { source: Source; peers: Peer[] | undefined }) {
  const [isRemoving, removing] = useDisclosure();
  const remove = useRemoveSource();
  return (
    <Stack gap="xs" component="article" aria-label={source.name}>
      <Group justify="space-between">
        <Group gap="sm">
          <Text fw={600}>{source.name}</Text>
          <State word={sourceWord(source.state)} detail={source.detail} />
        </Group>
        <Text size="sm" c="dimmed">
          {link(peers, source.peer_id)}
        </Text>
      </Group>
      <Id id={source.peer_id} what="the peer id" />
      <Text size="sm" c="dimmed" style={{ overflowWrap: "anywhere" }}>
        Manifest server: {source.manifest_server_url}, last checked{" "}
        <When at={source.last_poll} isRelative />
      </Text>
      <Group gap="xs" align="flex-start">
        <Test source={source.name} label={`Test the connection to ${source.name}`} />
        <Button
          leftSection={<IconTrash size={18} />}
          onClick={removing.open}
          aria-label={`Remove ${source.name}`}
        >
          Remove
        </Button>
      </Group>
      <Confirm
        title={`Stop backing up ${source.name}?`}
        yes="Remove it"
        isDangerous
        isOpen={isRemoving}
        isPending={remove.isPending}
        error={remove.error}
        onYes={() => remove.mutate(source.name, { onSuccess: removing.close })}
        onClose={removing.close}
      >
        <List>
          <List.Item>Nothing more is pulled from this source.</List.Item>
          <List.Item>Its snapshots stay on this computer and can be restored.</List.Item>
        </List>
      </Confirm>
    </Stack>
  );
}

function AddSource({ onClose }: { onClose: () => void }) {
  const [name, setName] = useState("");
  const [manifests, setManifests] = useState("http://");
  const [peer, setPeer] = useState("");
  const [address, setAddress] = useState("");
  const add = useAddSource();
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        add.mutate(
          {
            name: name.trim(),
            manifest_server_url: manifests.trim(),
            peer_id: peer.trim(),
            addresses: address.split(/\s+/).filter(Boolean),
          },
          { onSuccess: onClose },
        );
      }}
    >
      <Stack>
        <Text size="sm" c="dimmed">
          A pairing code does this automatically. If you add a source by hand, you must also name
          this computer in the settings of the source.
        </Text>
        <TextInput
          label="Name"
          required
          value={name}
          onChange={(event) => setName(event.currentTarget.value)}
          data-autofocus
        />
        <TextInput
          label="Manifest server"
          description="For example http://192.0.2.10:8085"
          required
          value={manifests}
          onChange={(event) => setManifests(event.currentTarget.value)}
          spellCheck={false}
        />
        <TextInput
          label="Peer id"
          description="Starts with 16Uiu2HAm"
          required
          value={peer}
          onChange={(event) => setPeer(event.currentTarget.value)}
          spellCheck={false}
        />
        <TextInput
          label="Addresses"
          description="Multiaddrs, separated by spaces. Default: port 8070 of the manifest server's host."
          value={address}
          onChange={(event) => setAddress(event.currentTarget.value)}
          spellCheck={false}
        />
        <ErrorBox error={add.error} />
        <Group justify="flex-end">
          <Button onClick={onClose}>Cancel</Button>
          <Button type="submit" variant="filled" loading={add.isPending}>
            Add
          </Button>
        </Group>
      </Stack>
    </form>
  );
}

function Connected({ peers }: { peers: Peer[] | undefined }) {
  const [address, setAddress] = useState("");
  const connect = useConnect();
  return (
    <Section title="Connected peers">
      {!peers && <Loader size="sm" aria-label="Loading" />}
      {peers?.length === 0 && <Text c="dimmed">No peer is connected at the moment.</Text>}
      {peers && peers.length > 0 && (
        <div className="scroll" tabIndex={0} role="group" aria-label="Connected peers">
          <Table fz="sm" miw={640}>
            <Table.Thead>
              <Table.Tr>
                <Table.Th>Peer</Table.Th>
                <Table.Th>Route</Table.Th>
                <Table.Th ta="right">Latency</Table.Th>
                <Table.Th>Since</Table.Th>
                <Table.Th>May fetch</Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {peers.map((peer) => (
                <Table.Tr key={peer.peer_id}>
                  <Table.Td>
                    {peer.name && <b>{peer.name}</b>}
                    <Id id={peer.peer_id} what="the peer id" />
                  </Table.Td>
                  <Table.Td>
                    {peer.addresses.map((one) => (
                      <div key={one} className="id">
                        {one}
                      </div>
                    ))}
                    <Text size="xs" c="dimmed">
                      {peer.direction}
                      {peer.agent ? `, ${peer.agent}` : ""}
                    </Text>
                  </Table.Td>
                  <Table.Td ta="right" style={{ whiteSpace: "nowrap" }}>
                    {peer.rtt_ms == null ? "not measured" : `${peer.rtt_ms.toFixed(1)} ms`}
                  </Table.Td>
                  <Table.Td style={{ whiteSpace: "nowrap" }}>
                    <When at={peer.connected_since} />
                  </Table.Td>
                  <Table.Td>{peer.is_allowed ? "yes" : "no"}</Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </div>
      )}
      <form
        onSubmit={(event) => {
          event.preventDefault();
          connect.mutate(address.trim(), { onSuccess: () => setAddress("") });
        }}
      >
        <Group mt="sm" align="flex-end">
          <TextInput
            style={{ flex: 1, minWidth: 220 }}
            label="Connect to an address"
            placeholder="/ip4/192.0.2.10/tcp/8070/p2p/16Uiu2HAm…"
            value={address}
            onChange={(event) => setAddress(event.currentTarget.value)}
            spellCheck={false}
          />
          <Button type="submit" loading={connect.isPending} disabled={!address.trim()}>
            Connect
          </Button>
        </Group>
      </form>
      <ErrorBox error={connect.error} onClose={() => connect.reset()} />
    </Section>
  );
}

export function Devices() {
  const status = useStatus();
  const config = useConfig();
  const peers = usePeers();
  const [isAdding, adding] = useDisclosure();
  const [parameters, setParameters] = useSearchParams();
  const pair = parameters.get("pair");
  const close = () => setParameters({}, { replace: true });
  if (!status.data) {
    return (
      <Page title="Devices">
        {status.isError ? <ErrorBox error={status.error} /> : <Loader aria-label="Loading" />}
      </Page>
    );
  }
  const address = config.data?.sync?.backup_peer_address;
  return (
    <Page
      title="Devices"
      lead="This computer, its backup server and its sources."
      actions={
        <>
          <Button variant="filled" onClick={() => setParameters({ pair: "show" })}>
            Show a code
          </Button>
          <Button variant="filled" onClick={() => setParameters({ pair: "enter" })}>
            Enter a code
          </Button>
        </>
      }
    >
      <ThisDevice status={status.data} />
      {config.data ? (
        <BackupPeer address={typeof address === "string" ? address : ""} peers={peers.data} />
      ) : config.isError ? (
        <ErrorBox error={config.error} onRetry={() => void config.refetch()} />
      ) : (
        <Skeleton h={120} aria-label="Loading" />
      )}
      <Receipts />
      <Section
        title="Sources: computers that are backed up here"
        label="Sources"
        action={
          <Button leftSection={<IconPlus size={18} />} onClick={adding.open}>
            Add by hand
          </Button>
        }
      >
        {status.data.sources.length === 0 && (
          <Text c="dimmed">None yet. To add one, enter its pairing code.</Text>
        )}
        <SimpleGrid cols={1}>
          {status.data.sources.map((source) => (
            <SourceRow key={source.name} source={source} peers={peers.data} />
          ))}
        </SimpleGrid>
      </Section>
      <ErrorBox error={peers.error} />
      <Connected peers={peers.data} />
      <Modal opened={pair === "show"} onClose={close} title="Pair: this computer is backed up">
        {pair === "show" && <ShowCode onClose={close} />}
      </Modal>
      <Modal
        opened={pair === "enter"}
        onClose={close}
        title="Pair: this computer keeps the backups"
      >
        {pair === "enter" && <EnterCode onClose={close} />}
      </Modal>
      <Modal opened={isAdding} onClose={adding.close} title="Add a source by hand">
        {isAdding && <AddSource onClose={adding.close} />}
      </Modal>
    </Page>
  );
}
