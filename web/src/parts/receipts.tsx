// The receipts of the backup servers: what they confirmed, and the export.

import { Button, Group, Stack, Table, Text } from "@mantine/core";
import { IconDownload } from "@tabler/icons-react";
import { useState } from "react";

import { downloadUrl } from "../api/client";
import type { Receipt, ReceiptChain } from "../api/model";
import { useReceiptChains, useReceipts } from "../api/queries";
import { count, counted } from "../lib/format";
import { Dot, DownloadButton, ErrorBox, FileName, Id, When } from "./basics";
import { Section } from "./section";

/** Number of receipts that the table shows at a time. */
const SHOWN = 20;

/** The state of the receipts of one backup server for one folder. */
function Chain({ chain }: { chain: ReceiptChain }) {
  return (
    <div>
      <Dot tone={chain.problems.length > 0 ? "bad" : "good"}>
        <FileName name={chain.folder_name} />: {counted(chain.count, "receipt")}
        {chain.newest && (
          <>
            , the newest for snapshot #{chain.newest.sequence}, complete{" "}
            <When at={chain.newest.received_at} />
          </>
        )}
        .
      </Dot>
      {chain.problems.map((problem) => (
        <ErrorBox key={problem} error={problem} />
      ))}
    </div>
  );
}

function Row({ receipt }: { receipt: Receipt }) {
  return (
    <Table.Tr>
      <Table.Td>
        <FileName name={receipt.folder_name ?? receipt.folder_id} />
      </Table.Td>
      <Table.Td ta="right">#{receipt.sequence}</Table.Td>
      <Table.Td style={{ whiteSpace: "nowrap" }}>
        <When at={receipt.received_at} />
      </Table.Td>
      <Table.Td>
        <Id id={receipt.backup_server} what="the peer id of the backup server" />
      </Table.Td>
      <Table.Td>
        {receipt.problem ? (
          <Dot tone="bad">{receipt.problem}</Dot>
        ) : (
          <Dot tone="good">verified</Dot>
        )}
      </Table.Td>
    </Table.Tr>
  );
}

/** All receipts, the newest first, each with the result of its verification. */
function List({ total }: { total: number }) {
  const receipts = useReceipts(total);
  const [shown, setShown] = useState(SHOWN);
  if (!receipts.data)
    return receipts.isError ? (
      <ErrorBox error={receipts.error} onRetry={() => void receipts.refetch()} />
    ) : (
      <Text size="sm">Verifying the signatures …</Text>
    );
  const newestFirst = [...receipts.data].sort((a, b) => b.received_at.localeCompare(a.received_at));
  return (
    <>
      <div className="scroll" tabIndex={0} role="group" aria-label="All receipts">
        <Table fz="sm" miw={640}>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>Folder</Table.Th>
              <Table.Th ta="right">Snapshot</Table.Th>
              <Table.Th>Complete</Table.Th>
              <Table.Th>Backup server</Table.Th>
              <Table.Th>Signatures and chain</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {newestFirst.slice(0, shown).map((receipt) => (
              <Row key={`${receipt.backup_server} ${receipt.hash}`} receipt={receipt} />
            ))}
          </Table.Tbody>
        </Table>
      </div>
      {newestFirst.length > shown && (
        <Button style={{ alignSelf: "flex-start" }} onClick={() => setShown(shown + SHOWN)}>
          Show more of {count(newestFirst.length)}
        </Button>
      )}
    </>
  );
}

/** The receipts for the folders of this computer. Nothing before the first receipt. */
export function Receipts() {
  const chains = useReceiptChains();
  const [isOpen, setOpen] = useState(false);
  if (chains.isError) return <ErrorBox error={chains.error} />;
  if (!chains.data || chains.data.length === 0) return null;
  const total = chains.data.reduce((sum, chain) => sum + chain.count, 0);
  return (
    <Section
      title="Receipts"
      lead="With a receipt, the backup server confirms that a snapshot is complete. Each receipt is signed and refers to the one before it."
    >
      <Stack gap="sm">
        {chains.data.map((chain) => (
          <Chain key={`${chain.backup_server} ${chain.folder_id}`} chain={chain} />
        ))}
        {isOpen && <List total={total} />}
        <Group gap="xs">
          <Button onClick={() => setOpen(!isOpen)} aria-expanded={isOpen}>
            {isOpen ? "Hide the receipts" : "Verify and list the receipts"}
          </Button>
          <DownloadButton
            address={downloadUrl("/receipts/export")}
            name="receipts.json"
            leftSection={<IconDownload size={18} />}
          >
            Export as JSON
          </DownloadButton>
        </Group>
      </Stack>
    </Section>
  );
}
