import org.apache.hc.client5.http.classic.methods.HttpPost;
import org.apache.hc.client5.http.impl.classic.HttpClients;
import org.apache.hc.core5.http.ContentType;
import org.apache.hc.core5.http.io.entity.EntityUtils;
import org.apache.hc.core5.http.io.entity.StringEntity;

/** Prints the status and body of each of several answers; it offers TLS by upgrade, as it comes. */
public class Apache {
  public static void main(String[] given) throws Exception {
    try (var client = HttpClients.createDefault()) {
      for (String connection : new String[] {"keep-alive", "close"})
        for (int at = 1; at < given.length; at++) {
          HttpPost post = new HttpPost(given[0]);
          post.setHeader("connection", connection);
          post.setEntity(new StringEntity(given[at], ContentType.APPLICATION_JSON));
          client.execute(post, answer -> {
            System.out.println(answer.getCode() + " " + EntityUtils.toString(answer.getEntity()));
            return null;
          });
        }
    }
  }
}
